package testenv

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// FailPoints lists the steps that the sources name with fail.Point, each with the directory
// it is in. where are files, directories with all beneath, or patterns of either.
func FailPoints(t testing.TB, where ...string) map[string]string {
	t.Helper()
	points := map[string]string{}
	for _, pattern := range where {
		roots, err := filepath.Glob(pattern)
		if err != nil || len(roots) == 0 {
			t.Fatalf("sources %s: none found: %v", pattern, err)
		}
		for _, root := range roots {
			err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
				switch {
				case err != nil:
					return err
				case d.IsDir() && strings.HasPrefix(d.Name(), ".") && p != root:
					return fs.SkipDir
				case d.IsDir(), !strings.HasSuffix(p, ".go"), strings.HasSuffix(p, "_test.go"):
					return nil
				}
				return addPoints(points, p)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return points
}

// addPoints adds those of one file.
func addPoints(points map[string]string, path string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 1 {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || sel.Sel.Name != "Point" {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "fail" {
			return true
		}
		name := path + ": a step's name must be a literal" // which no list of steps has
		if lit, ok := call.Args[0].(*ast.BasicLit); ok {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				name = s
			}
		}
		points[name] = filepath.ToSlash(filepath.Dir(path))
		return true
	})
	return nil
}
