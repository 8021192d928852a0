package agent

import "context"

// pluginError says that the plugin can't be kept running.
type pluginError struct{ err error }

func (e *pluginError) Error() string { return "its plugin: " + e.err.Error() }
func (e *pluginError) Unwrap() error { return e.err }

// host runs the plugin, if there is one, until ctx ends. The channel is closed when
// none of its calls begins anything any more.
func (a *Agent) host(ctx context.Context, quit context.CancelCauseFunc) <-chan struct{} {
	done := make(chan struct{})
	if a.plugin == nil {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		if err := a.plugin.Run(ctx); err != nil && ctx.Err() == nil {
			quit(&pluginError{err})
		}
	}()
	return done
}
