// Command etcdctl is etcd's own command line tool, unchanged, for the
// end-to-end tests. It is a module of its own so that what it requires is not
// required by the product, and a program of its own because the go command
// does not install a module that has replace directives.
package main

import "go.etcd.io/etcd/etcdctl/v3/ctlv3"

func main() { ctlv3.MustStart() }
