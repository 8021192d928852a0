package exec

// MaybeChild must be the first call of main. In a process that the adapter
// started as a job's supervisor it does that work and exits; in any other it
// returns at once.
func MaybeChild() {}
