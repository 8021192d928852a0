package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// txn is a transaction that notes what is done in it, for the redo log.
type txn struct {
	tx   *sql.Tx
	done []statement
}

// statement is one change of rows.
type statement struct {
	query string
	args  []any
}

// ExecContext is that of sql.Tx.
func (t *txn) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	st := statement{query: query, args: make([]any, len(args))}
	for i, a := range args {
		v, err := driver.DefaultParameterConverter.ConvertValue(a)
		if err != nil {
			return nil, err
		}
		switch v.(type) {
		case nil, int64, float64, string, []byte, bool:
		default:
			return nil, fmt.Errorf("argument %d is a %T", i+1, v)
		}
		st.args[i] = v
	}
	t.done = append(t.done, st)
	return t.tx.ExecContext(ctx, query, st.args...)
}

// Kinds of arguments in the redo log.
const (
	argNull = iota
	argInt
	argFloat
	argText
	argBytes
	argFalse
	argTrue
)

func appendStatements(b []byte, list []statement) []byte {
	for _, st := range list {
		b = appendString(b, st.query)
		b = binary.AppendUvarint(b, uint64(len(st.args)))
		for _, a := range st.args {
			b = appendArg(b, a)
		}
	}
	return b
}

func appendArg(b []byte, a any) []byte {
	switch v := a.(type) {
	case int64:
		return binary.AppendVarint(append(b, argInt), v)
	case float64:
		return binary.LittleEndian.AppendUint64(append(b, argFloat), math.Float64bits(v))
	case string:
		return appendString(append(b, argText), v)
	case []byte:
		if v != nil {
			return appendString(append(b, argBytes), string(v))
		}
	case bool:
		if v {
			return append(b, argTrue)
		}
		return append(b, argFalse)
	}
	return append(b, argNull)
}

var errStatements = errors.New("statements: bad contents")

func decodeStatements(b []byte) ([]statement, error) {
	c := reader{b: b}
	var out []statement
	for len(c.b) > 0 {
		st := statement{query: c.text()}
		for n := c.number(); n > 0 && !c.bad; n-- {
			st.args = append(st.args, c.arg())
		}
		if c.bad {
			return nil, errStatements
		}
		out = append(out, st)
	}
	return out, nil
}

func (c *reader) arg() any {
	switch c.number() {
	case argNull:
		return nil
	case argInt:
		return c.signed()
	case argFloat:
		if len(c.b) >= 8 {
			v := math.Float64frombits(binary.LittleEndian.Uint64(c.b))
			c.b = c.b[8:]
			return v
		}
	case argText:
		return c.text()
	case argBytes:
		return []byte(c.text())
	case argFalse:
		return false
	case argTrue:
		return true
	}
	c.b, c.bad = nil, true
	return nil
}
