// Package alarm holds etcd's alarms: which member has run out of space
// (NOSPACE), which one holds other data than the rest (CORRUPT). An alarm is
// raised and disarmed by an entry and stands until then, so that all members
// refuse the same requests.
//
// # Records
//
// Alarms table, integers big endian:
//
//	key    8  member ID; 0 = it is not known which member
//	       4  etcd's alarm type: 1 NOSPACE, 2 CORRUPT
//	value     empty
//
// What an alarm forbids is a rule of package state.
package alarm
