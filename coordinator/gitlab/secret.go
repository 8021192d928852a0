package gitlab

// Secret is a text that never shows itself in a log or a message.
type Secret string

// String hides it.
func (Secret) String() string { return "***" }

// GoString hides it.
func (Secret) GoString() string { return "***" }

// MarshalText hides it.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }
