package runner_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

func TestMain(m *testing.M) {
	runner.Main()
	goleak.VerifyTestMain(m)
}
