package workload

import (
	"fmt"
	"math/rand/v2"
)

// MinValueSize is the smallest value that holds all fields, in bytes.
const MinValueSize = 208

// batchPuts is how many puts one transaction has; etcd allows 128.
const batchPuts = 100

// KeySize is the size of a key that is loaded, in bytes.
const KeySize = len("user/000000000000")

// pair is one key and its value.
type pair struct {
	key   string
	value []byte
}

// batch gives the puts of one transaction: the same ones for the same seed and
// number, whoever asks and in whatever order. Keys rise with the number, so
// that loading is not mostly the store's compactions; once it is idle the store
// looks the same either way.
func batch(seed, number uint64, count, valueSize int) []pair {
	r := rand.New(rand.NewPCG(seed, number))
	out := make([]pair, count)
	for i := range out {
		id := r.Uint64()
		out[i] = pair{keyOf(number*batchPuts + uint64(i)), value(r, id, valueSize)}
	}
	return out
}

func keyOf(n uint64) string { return fmt.Sprintf("user/%012d", n) }

// value is a JSON object of exactly size bytes, about as compressible as
// records about people are.
func value(r *rand.Rand, id uint64, size int) []byte {
	first, last := pick(r, firstNames), pick(r, lastNames)
	b := make([]byte, 0, size)
	b = fmt.Appendf(b, `{"id":"%016x","name":"%s %s","email":"%s.%s%d@example.org","city":"%s","balance":%d.%02d,"active":%t,`+
		`"since":"20%02d-%02d-%02dT%02d:%02d:%02dZ","note":"`,
		id, first, last, first, last, r.IntN(1000), pick(r, cities), r.IntN(100000), r.IntN(100), r.IntN(2) == 0,
		r.IntN(26), 1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60))
	const end = `"}`
	for len(b) < size-len(end) {
		b = append(append(b, pick(r, words)...), ' ')
	}
	return append(b[:size-len(end)], end...)
}

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

// The vocabulary of values.
var (
	firstNames = []string{"Ada", "Alan", "Barbara", "Claude", "Donald", "Edsger", "Frances", "Grace", "Hedy", "Ivan", "Jean", "Katherine",
		"Leslie", "Margaret", "Niklaus", "Radia", "Shafi", "Tony", "Ursula", "Vint"}
	lastNames = []string{"Allen", "Bartik", "Cerf", "Dijkstra", "Floyd", "Goldwasser", "Hamilton", "Hoare", "Hopper", "Johnson", "Knuth",
		"Lamarr", "Lamport", "Liskov", "Lovelace", "Perlman", "Shannon", "Sutherland", "Turing", "Wirth"}
	cities = []string{"Amsterdam", "Berlin", "Cairo", "Delhi", "Edinburgh", "Florence", "Geneva", "Helsinki", "Istanbul", "Jakarta",
		"Kyoto", "Lima", "Madrid", "Nairobi", "Oslo", "Prague", "Quito", "Rome", "Sofia", "Turin"}
	words = []string{"order", "shipped", "pending", "invoice", "refund", "express", "gift", "priority", "returned", "paid", "open", "closed",
		"support", "renewal", "trial", "upgrade", "monthly", "yearly", "contact", "by", "mail", "phone", "before", "after", "customer",
		"asked", "for", "a", "the", "new", "address", "delivery"}
)

// Values are so many values of the generator, of size bytes each.
func Values(seed uint64, count, size int) [][]byte {
	out := make([][]byte, count)
	for i, p := range batch(seed, 0, count, size) {
		out[i] = p.value
	}
	return out
}

// Key is the n-th key that Fill puts.
func Key(n int) []byte { return []byte(keyOf(uint64(n))) }
