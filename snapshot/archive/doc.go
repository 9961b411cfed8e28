// Package archive is a seed as one stream of bytes: a file that is kept, or
// what the Snapshot call of etcd's Maintenance service streams. It is pure; who
// has the seed and where the bytes go is not its business.
//
// Format, version 1, integers little endian:
//
//	offset    size  field
//	0         8     "CFSEEDAR"
//	8         2     version, 1
//	10        2     0
//	12        4     length m of the manifest
//	16        m     the manifest, as package manifest encodes it
//	16+m      n     the bytes of its files, one after the other in its order
//	16+m+n    p     zeros, up to the next multiple of 512 bytes
//	16+m+n+p  32    SHA-256 of everything before
//
// Sizes and names are the manifest's; each chunk has its checksum there and is
// checked when it is read, so that nothing damaged is used though the hash is
// known at the end only. Zeros and hash are etcd's: its clients take a stream
// for whole when its length is 32 beyond a multiple of 512.
package archive
