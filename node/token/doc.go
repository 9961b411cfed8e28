// Package token makes and reads the tokens by which clients are known after they
// have shown a password: etcd's two kinds.
//
// A simple token is a secret and the index of the entry that made it known:
// "<secret>.<index>". The entry has the secret's SHA-256 only, so that neither the
// log nor a seed can be used to pass for somebody. Every member keeps the tokens
// whose entries it has applied, in memory, for a time after their last use there;
// one that has started again knows none, and its clients authenticate anew.
//
// A JSON Web Token (RFC 7519) is signed by one member and read by all that have the
// key; nothing is kept. It ends at its time, or with the next change of users and
// roles, whose revision it carries.
package token
