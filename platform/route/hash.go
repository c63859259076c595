package route

// Requests with a hash.
//
// Rendezvous hashing (highest random weight): each endpoint has a weight for each hash, and the endpoint with the
// highest one gets the requests. When an endpoint leaves, only its own hashes move, and they spread over all others.
// Unlike a ring of hashes it needs no state beside the hash of each ID.
//
// Bounded loads (Mirrokni, Thorup and Zadimoghaddam: Consistent Hashing with Bounded Loads, 2016) keep one hash with
// many requests from overloading its endpoint: of P requests in progress at n endpoints, this one included, none gets
// more than 1.25 x P / n, rounded up, or than hashFloor. What is beyond goes to the endpoint with the next highest
// weight.

// The bound is hashSlack / hashSlackOf of the mean, which is 1.25, and at least hashFloor: a browser makes six requests
// at a time, and to spread them would not help any endpoint.
const (
	hashSlack   = 5
	hashSlackOf = 4
	hashFloor   = 8
)

// pickHashed chooses the endpoint for a hash. The ejected ones are used only if all others are excluded.
func (p *Picked) pickHashed(t *tuning, hash uint64, exclude []string) bool {
	p.scope = Hashed
	if p.rendezvous(t, p.pool.open, hash, exclude) {
		return true
	}
	p.scope = Widened
	return p.rendezvous(t, p.pool.ready, hash, exclude)
}

// rendezvous chooses from set the endpoint with the highest weight that is below the bound. Other is the one with the
// highest weight of all, if that is another one.
func (p *Picked) rendezvous(t *tuning, set []*member, hash uint64, exclude []string) bool {
	var n, total int64
	for _, m := range set {
		if !contains(exclude, m.ID) {
			n++
			total += m.load(p.stream)
		}
	}
	if n == 0 {
		return false
	}
	bound := max(hashFloor, (hashSlack*(total+1)+hashSlackOf*n-1)/(hashSlackOf*n))
	var first, best *member
	var firstWeight, bestWeight uint64
	for _, m := range set {
		if contains(exclude, m.ID) {
			continue
		}
		weight := mix(m.hash ^ hash)
		if first == nil || weight > firstWeight {
			first, firstWeight = m, weight
		}
		if (best == nil || weight > bestWeight) && m.load(p.stream) < bound {
			best, bestWeight = m, weight
		}
	}
	if best == nil { // others have picked since the load was added up: else one is below the bound
		best = first
	}
	p.m, p.cost = best, best.cost(p.start, t, p.stream)
	if first != best {
		p.other, p.otherCost = first, first.cost(p.start, t, p.stream)
	}
	return true
}

// load is the number of requests in progress that bounds count: like cost, without streams unless this is a stream.
func (s *stats) load(stream bool) int64 {
	if stream {
		return s.pending.Load() + s.streams.Load()
	}
	return s.pending.Load()
}

// HashOf returns the hash of parts for [PickInfo.Hash]. It is the same in every process, so that all of them choose the
// same endpoint, and never zero. It is FNV-1a of 64 bits, mixed, because the last letters change few bits of FNV-1a.
func HashOf(parts ...string) uint64 {
	h := uint64(14695981039346656037)
	for _, part := range parts {
		for i := range len(part) {
			h = (h ^ uint64(part[i])) * fnvPrime
		}
		h *= fnvPrime // as a byte of zero: "a", "b" is not "ab"
	}
	return max(1, mix(h))
}

const fnvPrime = 1099511628211
