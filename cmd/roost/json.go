package main

import (
	"encoding/json"
	"io"
)

// printIndented prints v as JSON that people read too.
func printIndented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
