package route

// snapshot is the state that Pick reads. It is rebuilt when the set, an ejection or a setting changes.
type snapshot struct {
	tuning   *tuning
	expires  int64 // when it becomes wrong without a change of the endpoints: an ejection ends, a sweep is due
	all      pool
	versions map[string]*pool // version -> its endpoints
}

// pool is a set of endpoints that one kind of pick chooses from.
type pool struct {
	version string // "" for all
	known   int
	waiting int       // for a connection
	ready   []*member // connected, or not known to be otherwise
	open    []*member // what picks choose from: ready and not ejected, or all of ready in panic
	local   []*member // open, in the caller's zone
	remote  []*member // open, elsewhere
	probes  []*member // ejection over, waiting to be tried
	ejected int       // those in probes included
	panic   bool

	localShare float64 // part of the traffic that stays in the zone
	prefer     bool    // whether zones matter here
	warmUntil  int64   // until then some of open are in slow start
}

// current returns the snapshot, renewed if need be. While one goroutine renews it, the others use the old one.
func (b *Balancer) current(now int64) *snapshot {
	s := b.snap.Load()
	if now < s.expires && s.tuning == b.settings.now() {
		return s
	}
	if !b.mu.TryLock() {
		return s
	}
	defer b.mu.Unlock()
	if now >= b.nextSweep {
		b.sweepLocked(now)
	}
	b.rebuildLocked(now)
	return b.snap.Load()
}

func (b *Balancer) rebuildLocked(now int64) {
	t := b.settings.now()
	b.nextSweep = min(b.nextSweep, now+int64(t.interval)) // the interval may have become shorter
	s := &snapshot{tuning: t, expires: b.nextSweep, versions: make(map[string]*pool)}
	for _, m := range b.members {
		s.add(m, now)
	}
	s.all.finish(b.zone, t)
	for _, p := range s.versions {
		p.finish(b.zone, t)
	}
	b.snap.Store(s)
}

// pool returns the endpoints of a version, or all; nil if no endpoint has that version.
func (s *snapshot) pool(version string) *pool {
	if version == "" {
		return &s.all
	}
	return s.versions[version]
}

func (s *snapshot) add(m *member, now int64) {
	if m.phase.Load() == ejected {
		if now >= m.until {
			m.phase.Store(probation)
		} else {
			s.expires = min(s.expires, m.until)
		}
	}
	s.all.add(m)
	if m.Version == "" {
		return
	}
	p := s.versions[m.Version]
	if p == nil {
		p = &pool{version: m.Version}
		s.versions[m.Version] = p
	}
	p.add(m)
}

func (p *pool) add(m *member) {
	p.known++
	if m.waiting {
		p.waiting++
	}
	if !m.ready {
		return
	}
	p.ready = append(p.ready, m)
	switch m.phase.Load() {
	case admitted:
		p.open = append(p.open, m)
	case ejected:
		p.ejected++
	case probation:
		p.ejected++
		p.probes = append(p.probes, m)
	}
}

// finish derives what Pick needs from the members added.
func (p *pool) finish(zone string, t *tuning) {
	if p.ejected > 0 && float64(p.ejected) > t.panicThreshold*float64(len(p.ready)) {
		p.panic, p.open = true, p.ready
	}
	zones := make(map[string]bool)
	for _, m := range p.ready {
		zones[m.Zone] = true
	}
	for _, m := range p.open {
		if m.Zone == zone {
			p.local = append(p.local, m)
		} else {
			p.remote = append(p.remote, m)
		}
		p.warmUntil = max(p.warmUntil, m.born.Load()+int64(t.slowStart))
	}
	p.prefer = t.preferZone && zone != "" && !p.panic && len(p.local) > 0 && len(p.remote) > 0 &&
		len(p.local) >= t.zoneMin
	if p.prefer {
		fair := float64(len(p.local)) * float64(len(zones)) / float64(len(p.open))
		p.localShare = min(1, t.overprovision*fair)
	}
}

func (p *pool) countExcluded(exclude []string) int {
	n := 0
	for _, m := range p.ready {
		if contains(exclude, m.ID) {
			n++
		}
	}
	return n
}

// choose finds the endpoint: zone first, then two at random, then the cheaper. It reports whether there is one.
func (p *Picked) choose(t *tuning, exclude []string) bool {
	bits := p.b.rand()
	set := p.pool.open
	if p.pool.prefer {
		p.scope, set = Spilled, p.pool.remote
		if p.pool.localShare >= 1 || p.b.float() < p.pool.localShare {
			p.scope, set = Local, p.pool.local
		}
	}
	if len(exclude) == 0 {
		return p.two(t, set, bits)
	}
	// The excluded must not be chosen while any other exists, so widen: the zone, everybody, even the ejected.
	if p.twoExcept(t, set, exclude, bits) {
		return true
	}
	p.scope = Widened
	return p.twoExcept(t, p.pool.open, exclude, bits) || p.twoExcept(t, p.pool.ready, exclude, bits)
}

// two draws two different endpoints.
func (p *Picked) two(t *tuning, set []*member, bits uint64) bool {
	n := uint64(len(set))
	switch n {
	case 0:
		return false
	case 1:
		p.cheaper(t, set[0], nil)
		return true
	}
	i := (bits >> 32) * n >> 32
	j := (bits & (1<<32 - 1)) * (n - 1) >> 32
	if j >= i {
		j++
	}
	p.cheaper(t, set[i], set[j])
	return true
}

// twoExcept draws two different endpoints that are not excluded, in one pass.
func (p *Picked) twoExcept(t *tuning, set []*member, exclude []string, bits uint64) bool {
	var drawn [2]*member
	var n uint64
	for _, m := range set {
		if contains(exclude, m.ID) {
			continue
		}
		if n < 2 {
			drawn[n] = m
		} else if i := mix(bits+n) % (n + 1); i < 2 {
			drawn[i] = m
		}
		n++
	}
	if n == 0 {
		return false
	}
	if n > 1 && bits&1 == 1 { // the first wins a tie, and the early ones of set are never drawn second
		drawn[0], drawn[1] = drawn[1], drawn[0]
	}
	p.cheaper(t, drawn[0], drawn[1])
	return true
}

// cheaper settles between a and c, of which c may be nil.
func (p *Picked) cheaper(t *tuning, a, c *member) {
	p.m, p.cost = a, a.cost(p.start, t, p.stream)
	if c == nil {
		return
	}
	p.other, p.otherCost = c, c.cost(p.start, t, p.stream)
	swap := p.otherCost < p.cost
	if p.start < p.pool.warmUntil {
		aTurn, cTurn := p.turn(t, a), p.turn(t, c)
		if aTurn != cTurn {
			swap = cTurn
		}
	}
	if swap {
		p.swap()
	}
	if p.other.retry(p.start, t) {
		p.again = true
		p.swap()
	}
}

func (p *Picked) swap() {
	p.m, p.other = p.other, p.m
	p.cost, p.otherCost = p.otherCost, p.cost
}

// turn reports whether m takes its turn, which during slow start it does only with the probability of its share. If
// both endpoints drawn take it, or neither does, cost decides: a whole service that has just started is not held back.
func (p *Picked) turn(t *tuning, m *member) bool {
	share := t.share(p.start - m.born.Load())
	return share >= 1 || p.b.float() < share
}

// takeProbe sends the request to an endpoint whose ejection is over, if none is trying it already.
func (p *Picked) takeProbe(t *tuning) bool {
	for _, m := range p.pool.probes {
		if m.claim(p.start, t) {
			p.m, p.cost, p.probe, p.scope = m, m.cost(p.start, t, p.stream), true, Probe
			p.open().Add(1)
			return true
		}
	}
	return false
}

func (b *Balancer) float() float64 { return float64(b.rand()>>11) / (1 << 53) }

// mix spreads the bits of x (splitmix64's finaliser).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func contains(ids []string, id string) bool {
	for _, x := range ids {
		if x == id {
			return true
		}
	}
	return false
}
