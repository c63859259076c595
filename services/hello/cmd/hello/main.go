// Command hello runs the hello service.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/hello"
)

func main() {
	var o hello.Options
	service.Main("hello", func(f *service.Flags) {
		f.StringVar(&o.Greeting, "greeting", "Hello", "default of the setting hello.greeting")
	}, func(ctx context.Context, setup *service.Setup) error {
		return hello.New(ctx, setup, o)
	})
}
