package policy

// truncation gives the index up to which this member drops its log, 0 for none.
// It is the least of
//
//   - what is durably applied, less TrailingEntries: a member that restarts
//     replays from there, and a follower that was away a moment needs no seed;
//   - every hold: entries after it are still needed by a seed;
//   - at the leader, the match of every live follower that is at most
//     MaxFollowerLagEntries behind; one further behind is better seeded again.
//
// A new leader waits an election timeout, until it knows its followers.
func (p *Policy) truncation(v View) uint64 {
	if v.DurableApplied <= p.o.TrailingEntries {
		return 0
	}
	index := min(v.DurableApplied-p.o.TrailingEntries, v.Applied, v.Commit, v.Last)
	for _, l := range v.Leases {
		index = min(index, l.GetHold())
	}
	if v.Leader {
		if v.Now-p.since < v.ElectionTimeout {
			return 0
		}
		for id, t := range p.members {
			match := v.Progress[id].Match
			if id != v.SelfID && reachable(v, t) && match+p.o.MaxFollowerLagEntries >= v.Last {
				index = min(index, match)
			}
		}
	}
	if index < v.First || index-v.First+1 < p.o.StepEntries {
		return 0
	}
	return index
}
