package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/internal/durable"
)

// jobVariables is the table of what a GitLab job can say, as Markdown.
func jobVariables() string {
	var b strings.Builder
	b.WriteString("| variable | values | default | effect |\n|---|---|---|---|\n")
	for _, v := range gitlab.Variables() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", v.Name, v.Values, v.Default, v.Effect)
	}
	return b.String()
}

// Marks of the table in the guide.
const (
	variablesFrom = "<!-- made by: make docs -->\n"
	variablesTo   = "<!-- end -->\n"
)

func newVariables() *cobra.Command {
	var into string
	c := &cobra.Command{
		Use:   "variables",
		Short: "Print the variables that a GitLab job can set, as Markdown",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if into == "" {
				fmt.Fprint(cmd.OutOrStdout(), jobVariables())
				return nil
			}
			text, err := os.ReadFile(into)
			if err != nil {
				return usageError(err, "")
			}
			if text, err = withVariables(text); err != nil {
				return usageError(fmt.Errorf("%s: %w", into, err), "")
			}
			return durable.WriteFile(into, 0o644, func(w io.Writer) error {
				_, err := w.Write(text)
				return err
			})
		},
	}
	c.Flags().StringVar(&into, "into", "", "put the table into this file, between its marks")
	return c
}

// withVariables puts the table between the marks of a text.
func withVariables(text []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(text, []byte(variablesFrom))
	_, after, end := bytes.Cut(rest, []byte(variablesTo))
	if !ok || !end {
		return nil, errors.New("the marks of the table are not there")
	}
	return bytes.Join([][]byte{before, []byte(variablesFrom + "\n" + jobVariables() + "\n" + variablesTo), after}, nil), nil
}
