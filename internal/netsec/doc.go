// Package netsec is how a node listens and dials: etcd-style URLs, TLS from
// certificate files or certificates made here, the one gate that every RPC of
// every gRPC server passes (Gate), users and their tokens (Login), and an address
// that gRPC shares with HTTP/1.1 and with protocols of their own (Split, Apart).
//
// URLs are http://host:port, https://host:port, unix://path and unixs://path
// (or unix:///path for an absolute one); port 0 lets the system choose. TLS is
// 1.2 at least. Certificate files and lists of revoked certificates are read
// again at every handshake, so a renewed or revoked certificate needs no restart.
package netsec
