// Command etcd is etcd's own server, unchanged, for the benchmark to compare
// with. It is a module of its own so that what it requires is not required by
// the product, and a program of its own because the go command does not install
// a module that has replace directives.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
