package runner_test

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

func TestMain(m *testing.M) {
	runner.Main()
	flag.Parse()
	_ = flag.Set("test.parallel", "8")    // they mostly wait
	home, err := os.MkdirTemp("", "home") // login shells and git read nothing of a person's
	if err != nil {
		panic(err)
	}
	os.Setenv("HOME", home)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(home)
		os.Exit(code)
	}))
}
