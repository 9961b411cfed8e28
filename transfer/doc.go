// Package transfer moves verified chunks of a seed between members: the Seed
// service (Server), its client (Pull), and a push into a node that waits for a
// seed (Push, Receive). A target that has an old state may copy files of it and
// make tables of its records, beside what it fetches (Delta, RecordSource). It
// knows no storage engine, no Raft and no terminal:
// what it serves, writes and reports goes through the interfaces and callbacks
// declared here.
//
// # Rules
//
//  1. Every RPC asks the Authorizer first; a request that names another cluster
//     is refused before the first byte.
//  2. Nothing from the wire is trusted: sizes are bounded before allocation, a
//     chunk must be the next one asked for, carry the seed's ID, decompress to
//     exactly the size its manifest says, and pass Stage.Put's checksum.
//  3. A stream without its end frame failed. What was stored stays stored:
//     only missing ranges are asked for again, at the same source or another.
//  4. No call hangs: a side that sees no byte for its idle timeout ends with
//     fault.Timeout, a pull after one last try. Bytes are counted on the
//     connection (Meter, ConnMeter), so a slow line is not taken for a dead one.
//  5. While a seed moves its lease is renewed by both sides at a third of its
//     TTL; when the lease ends, the transfer ends with fault.LeaseLost.
//  6. A pull has several connections, each with a few chunks asked for and not
//     stored: as many as a long line holds, hardly any on a short one. That, and
//     no window of gRPC's, bounds what a target holds in memory and what it
//     loses when it is killed.
//  7. What could be made and was not is fetched: no error of making a table ends a
//     pull. A table is made or fetched, not both, unless it could not be made, or
//     not in the time that fetching takes; but for one chunk that shows how fast
//     the line is. Over a slow one, lists of records go before chunks.
//  8. Seeds give way to what the source is there for: all of them together keep
//     to a Pace that follows how long its writes and the syncs of its log take,
//     above a floor.
//
// # Frames (format version 1)
//
// A GetSnapshot stream, and the frames of a Receive stream, are
//
//	begin {version, manifest root}
//	per range asked for:  chunk {...} in order, then file end {file, digest}
//	end {chunks, raw bytes}
//
// or end early with error {code, message, hint}. The manifest itself travels as
// file 0xffffffff with the root as its digest. A range of an empty file is just
// its file end.
//
// A chunk frame is the protobuf encoding of GetSnapshotResponse with the fields
// in ascending order and data last, which lets the raw codec (Codec) write the
// header by hand and send the data from where it lies:
//
//	bytes  content
//	1      0x12: field 2 (chunk), length-delimited
//	1-4    varint: length of what follows
//	1+8    0x09, fixed64: seed ID, first 8 bytes of the manifest root, little endian
//	1+1-5  0x10, varint: file          (absent when 0)
//	1+1-5  0x18, varint: index         (absent when 0)
//	1+1-5  0x20, varint: raw size      (absent when 0)
//	1+1    0x28, varint: compression   (absent when 0)
//	1+8    0x31, fixed64: xxh3 of the raw bytes (absent when 0)
//	1+1-4  0x7a, varint: length of the data (absent when empty)
//	n      data
//
// ListRecords and PickRecords stream bytes as package record describes them, in the
// same frames: as file 0xfffffffe in chunks of at most 128 KiB, packed with zstd
// unless the request names something else, with the root as the file's digest and,
// of a chunk, the xxh3 of what it carries. There is no digest of the whole: the table
// that is made of it is compared with the manifest, chunk by chunk.
//
// Inside a Receive stream the same bytes are wrapped as field 2 of
// ReceiveRequest (0x12, varint length). Other implementations of protobuf read
// and write the same messages.
//
// # Channels (cfseed-channel/1)
//
// Chunks need not come over gRPC, whose framing costs a processor more than the
// rest of a pull: a source may offer channels (OpenSeedResponse.channel), which are
// connections to the address that opened the seed. TLS is that of the address, with
// the protocol's name as ALPN; without TLS the name and a newline come first. A
// target sends requests, the source answers each, in order, with the frames of a
// GetSnapshot stream; after an error the connection is of no use. Every part of a
// channel, either way, is
//
//	offset  bytes  content, little endian
//	0       1      kind: 1 frame that is no chunk, 2 chunk, 3 request
//	1       1      compression of a chunk
//	2       2      0
//	4       4      length of what follows the head: of a chunk at most 1.25 MiB, else 64 KiB
//	8       4      file, 12: index, 16: raw size; of a chunk, as in its frame
//	20      4      0
//	24      8      seed ID, 32: xxh3 of the raw bytes; of a chunk
//	40      n      data of the chunk, or a GetSnapshotResponse, or a ChannelRequest
//
// A request carries the secret that opening the seed gave, which is worth nothing
// when the lease has ended; the Authorizer is asked about who opened the seed at
// every request, and one that it refuses has to open the seed again. A chunk
// that is not compressed goes from its file to the socket without being read (where
// the system can, and there is no TLS), so it is the target that finds what the
// source's disk got wrong; it asks for such a chunk again, to be checked first. A
// target that gets no answer over a channel falls back to streams.
package transfer
