package runner_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"

	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

func TestMain(m *testing.M) {
	runner.Main()
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // they mostly wait
	goleak.VerifyTestMain(m)
}
