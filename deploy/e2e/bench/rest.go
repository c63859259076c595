package main

import "context"

func benchPublish(context.Context, *report) error  { return nil }
func benchRegister(context.Context, *report) error { return nil }
func benchGateway(context.Context, *report) error  { return nil }
func benchIngest(context.Context, *report) error   { return nil }
func benchStack(context.Context, *report) error    { return nil }
