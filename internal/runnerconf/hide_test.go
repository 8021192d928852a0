package runnerconf

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every secret that can't be hidden line by line is hidden, and nothing else changes.
func TestHide(t *testing.T) {
	f, err := Parse([]byte(`# token = """no"""
concurrent = 1
[[runners]]
  name = """not
a secret"""
  token = """glrt-secret""" # one
  other_token = "plain"
  Token_b = "a\u0041secret"
  registry_token = '''
secret
'''
  environment = ["A=plain", "DOCKER_AUTH_CONFIG={\"auths\":{\"secret\":1}}", 'B=x"secret', """C=
secret""", "not a variable \" x"]
  cache = { s3 = { AccessKey = "secret", Bucket = "b\"" }, Type = "s3" }
`))
	require.NoError(t, err)
	out := string(f.Hide(func(key string) bool { return strings.Contains(key, "token") || key == "accesskey" }))
	require.Equal(t, `# token = """no"""
concurrent = 1
[[runners]]
  name = """not
a secret"""
  token = "***" # one
  other_token = "plain"
  Token_b = "***"
  registry_token = "***"
  environment = ["A=plain", "DOCKER_AUTH_CONFIG=***", "B=***", "C=***", "not a variable \" x"]
  cache = { s3 = { AccessKey = "***", Bucket = "b\"" }, Type = "s3" }
`, out)
	_, err = Parse([]byte(out))
	require.NoError(t, err)
}
