package store

// Tidy deletes blobs that no layer needs any more. It is for who removes layers
// while Run does not run.
func (s *Store) Tidy() {
	if !s.running.TryLock() {
		return // Run does it
	}
	defer s.running.Unlock()
	s.dropStale()
	s.sweepUnnamed()
}
