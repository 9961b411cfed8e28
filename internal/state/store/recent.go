package store

// recentBytes bounds each of the two generations of recent versions; recentMost is
// the largest record that is kept, and recentOverhead what one takes beside its key
// and value, about.
const (
	recentBytes    = 4 << 20
	recentMost     = 64 << 10
	recentOverhead = 128
)

// recent holds the newest versions of keys that were written a short while ago: a
// key that is written again and again is looked up here, and not in every level of
// the database. It belongs to the batch, the only writer of versions. Only live ones
// are kept: a tombstone may be purged.
//
// There are two generations. What is written goes to the young one; when that is
// full it becomes the old one, which is forgotten.
type recent struct {
	young, old map[string]Version // by encoded prefix
	size       int                // of young
}

// get gives the newest version of a key, if it is known.
func (r *recent) get(prefix []byte) (v Version, found bool) {
	if v, found = r.young[string(prefix)]; !found {
		v, found = r.old[string(prefix)]
	}
	return v, found
}

// put takes what was committed for a key.
func (r *recent) put(key string, v Version) {
	delete(r.old, key)
	if was, found := r.young[key]; found {
		r.size -= recentSize(key, was)
		delete(r.young, key)
	}
	size := recentSize(key, v)
	if !v.Live || size > recentMost {
		return
	}
	if r.young == nil || r.size+size > recentBytes {
		r.old, r.young, r.size = r.young, make(map[string]Version), 0
	}
	r.young[key] = v
	r.size += size
}

func recentSize(key string, v Version) int { return len(key) + len(v.Value) + recentOverhead }
