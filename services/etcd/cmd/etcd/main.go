// Command etcd is the store of the platform's control plane.
package main

import (
	"os"

	"bijou.dev/services/etcd"
)

func main() { os.Exit(etcd.Main(os.Args, os.Environ(), os.Stderr)) }
