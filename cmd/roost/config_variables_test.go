package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGuideHasTheVariables(t *testing.T) {
	text, err := os.ReadFile("../../docs/gitlab.md")
	require.NoError(t, err)
	want, err := withVariables(text)
	require.NoError(t, err)
	require.Equal(t, string(want), string(text), "run: make docs")
	_, err = withVariables([]byte("no marks"))
	require.Error(t, err)
}
