//go:build !failpoints

package fail

// Point marks a named step.
func Point(string) {}
