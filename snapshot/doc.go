// Package snapshot captures the state of a member as a seed and installs a seed
// in another data directory. It deals in files only; who sends them, and why,
// is not its business.
//
// # Capture
//
// A seed is a checkpoint of the state store: hard links to its tables, under a
// directory of its own. Its position, configuration and digest are read from
// INSIDE the checkpoint, since entries are applied meanwhile. Library shares and
// counts the seeds a member serves; FromStopped makes one from the data
// directory of a member that does not run.
//
// Tables never change, so their chunks are summed once: by the first capture
// that has them, or before one is asked for, slowly, by SumAhead. A sum belongs
// to a name, size, device, inode and time of writing and is kept in memory
// only. It is checked whenever a chunk is read; a table that differs is summed
// again if its own checksums are right, and not served if they are not.
//
// # Stage
//
// A seed on its way in lies in staging/ of the target's data directory:
//
//	staging/manifest   what is expected, written before the first chunk
//	staging/files/     the files, sparse until all chunks are there
//	staging/previous/  files of an earlier seed, while they are sorted out
//
// There is no journal of what has arrived. Opening a stage again reads every
// staged byte and keeps the chunks whose sums match, so no crash, however odd,
// can make a stage believe in bytes that are not there. If another seed is
// staged, files with equal digests are taken over and the rest is dropped.
//
// What goes into the files goes past the page cache where that can be: whole
// blocks are written straight from memory, one chunk at a time, and read back
// from the disk itself. It saves the processor two copies of every byte, and
// leaves in the cache what others have there. A new member's tables come into
// the cache as they are read.
//
// # Delta
//
// A Base is the data directory of a member that does not run, or the state of the
// one that stages; a Match says what a stage can take from it. Files that are the seed's are copied (Adopt), and so are
// chunks of tables: one that was only appended to begins as it did before. A table
// of which the base has less than half like that is made again of records (Make):
// the source lists hashes of them in order, as package record describes it, the
// target looks for them in those tables of the base that the seed has not, asks for
// the others, and writes a table of all. The storage engine writes the same table
// whenever it is given the same records and the same options, so that the bytes are
// the seed's; each chunk is compared with the manifest as one that was fetched is.
// A hash that two records have, or a source that writes its tables in another way,
// cost a table that is fetched as a file after all, and nothing else. The base is
// only read, and nothing of a delta is on disk but the stage.
//
// # Install
//
// Each step is durable before the next one begins:
//
//	1  every file synced, then files/, staging/ and the data directory
//	2  everything read back through fresh handles and compared with the
//	   manifest (a table when it is whole and synced, and again only if it
//	   was written to since), then opened and asked for its position and
//	   digest
//	3  staging/files renamed to state-1
//	4  raft/ written: a log that begins behind the position, no vote
//	5  the manifest kept as seed-manifest
//	6  identity written: the commit point
//	7  staging/ removed
//
// Before 6 the directory holds no node: it is still marked by staging/, and
// opening a stage moves state-1 back and drops the rest. From 6 on it holds a
// whole node. A file whose sync failed is removed, never trusted again; the
// stage is unusable after its first failed write.
//
// Found makes the member of a new cluster of it: between 2 and 3 the staged state
// is opened, becomes that of the new cluster in one batch, is closed, synced and
// looked at again. There is no 5, since the manifest speaks of another state. A
// crash in between leaves a stage of which a part is not the seed's, and is
// staged again.
//
// InstallState ends after 3, for a running member whose log is reset to the new
// state by its owner.
package snapshot
