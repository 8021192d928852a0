package agent

// own has nothing to do: rights are inherited here.
func (a *Agent) own(string) error { return nil }
