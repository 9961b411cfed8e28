// Package e2e tests whole processes: it builds the binary once, starts nodes on
// ports and directories of their own, talks to them as an operator and as
// etcd's client does, kills them with SIGKILL, and reads every acknowledged
// write back from every member. It has tests only; they carry the build tag
// e2e (`make e2e`).
//
// CFSEED_E2E_BINARY names a binary to test in place of the one that would be
// built. At most two tests run at a time.
//
// The tests of etcdctl build it from testdata/etcdctl, and TestDifferential builds
// etcd's server from testdata/etcd; their modules have to be there or be fetched.
// Where they can not be, these tests are skipped, and fail if CFSEED_E2E_ETCDCTL
// is "required".
package e2e
