package kvmem

import (
	"errors"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/driver"
)

// Fail makes the store unreachable for this client until Heal: every call fails as errs.Unavailable with err as its
// cause, watches get no updates and have a problem, leases are not renewed and so are lost after their TTL. Nil: an
// error that says that the store cannot be reached.
func (s *Store) Fail(err error) {
	if err == nil {
		err = errors.New("the store cannot be reached")
	}
	d := s.data
	d.mu.Lock()
	defer d.mu.Unlock()
	s.down = err
	s.setProblemLocked()
	for _, l := range d.leases {
		if l.owner == s {
			d.startExpiryLocked(l)
		}
	}
}

// Cut stops the updates of this client's watches until Heal. Calls work and leases are renewed.
func (s *Store) Cut() {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	s.cut = true
	s.setProblemLocked()
}

// Heal undoes Fail and Cut. Watches catch up: one update per transaction they missed, or one for all when the history
// was compacted meanwhile.
func (s *Store) Heal() {
	d := s.data
	d.mu.Lock()
	defer d.mu.Unlock()
	s.down, s.cut = nil, false
	for _, l := range d.leases {
		if l.owner == s && l.expiry != nil {
			l.expiry.Stop()
			l.expiry = nil
		}
	}
	for prefix, f := range s.feeds {
		s.resumeLocked(prefix, f)
	}
}

// DropWatches makes every watch of this client lose its place and list again.
func (s *Store) DropWatches() {
	d := s.data
	d.mu.Lock()
	defer d.mu.Unlock()
	s.setProblemLocked()
	if s.cutOffLocked() != nil {
		return
	}
	for prefix, f := range s.feeds {
		f.Reset(d.listLocked(prefix), d.rev)
	}
}

// Compact deletes the history of the data: a watch that is cut off now has to list again.
func (s *Store) Compact() {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	s.data.compacted, s.data.log = s.data.rev, nil
}

// ExpireLease ends a lease at once, as if its owner had not been heard for a TTL. An unknown lease is ignored.
func (s *Store) ExpireLease(id kv.LeaseID) {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	s.data.expireLocked(id)
}

func (s *Store) resumeLocked(prefix string, f *driver.Feed) {
	d := s.data
	if rev, synced := f.Revision(); !synced || rev < d.compacted {
		f.Reset(d.listLocked(prefix), d.rev)
		return
	}
	for _, u := range d.log {
		if part := driver.Under(prefix, u); len(part.Puts)+len(part.Deletes) > 0 {
			f.Apply(part)
		}
	}
	f.Advance(d.rev)
}

// cutOffLocked returns why watches get no updates now, or nil.
func (s *Store) cutOffLocked() error {
	switch {
	case s.down != nil:
		return errs.Errorf(errs.Unavailable, "watching: %w", s.down)
	case s.cut:
		return errs.Errorf(errs.Unavailable, "watching: the watch is cut off")
	}
	return nil
}

func (s *Store) setProblemLocked() {
	err := s.cutOffLocked()
	if err == nil {
		return
	}
	for _, f := range s.feeds {
		f.SetProblem(err)
	}
}
