// Package measure has what the benchmarks measure with: what a process and the
// machine used (from /proc, which only Linux has), percentiles and spreads,
// rows that hold a figure against a bound, and the plain copy of a directory
// that a seed is compared with.
package measure
