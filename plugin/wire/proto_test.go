package wire

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/roost-ci/roost/plugin/wire/wirepb"
)

// TestGenerated compares plugin.proto with the Go that is committed. If it fails, run
// `make generate`.
func TestGenerated(t *testing.T) {
	src, err := os.ReadFile("plugin.proto")
	require.NoError(t, err)
	var want []string
	scope := ""
	line := regexp.MustCompile(`^\s*(?:(message|service|oneof) (\w+) {|rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\);|((?:repeated )?[\w<>, ]+?) (\w+) = (\d+);)`)
	for l := range strings.SplitSeq(string(src), "\n") {
		m := line.FindStringSubmatch(l)
		switch {
		case m == nil, m[1] == "oneof":
		case m[1] != "":
			scope = m[2]
			want = append(want, m[1]+" "+scope)
		case m[3] != "":
			want = append(want, fmt.Sprintf("rpc %s.%s(%s%s) %s%s", scope, m[3], m[4], m[5], m[6], m[7]))
		default:
			want = append(want, fmt.Sprintf("%s %s.%s %s", m[8], scope, m[9], m[10]))
		}
	}
	require.Greater(t, len(want), 60)
	got := generated(wirepb.File_plugin_wire_plugin_proto)
	slices.Sort(want)
	slices.Sort(got)
	require.Equal(t, want, got)
}

func generated(f protoreflect.FileDescriptor) []string {
	var got []string
	for i := range f.Messages().Len() {
		m := f.Messages().Get(i)
		got = append(got, "message "+string(m.Name()))
		for j := range m.Fields().Len() {
			fd := m.Fields().Get(j)
			got = append(got, fmt.Sprintf("%s %s.%s %d", typeName(fd), m.Name(), fd.Name(), fd.Number()))
		}
	}
	stream := map[bool]string{true: "stream "}
	for i := range f.Services().Len() {
		s := f.Services().Get(i)
		got = append(got, "service "+string(s.Name()))
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			got = append(got, fmt.Sprintf("rpc %s.%s(%s%s) %s%s", s.Name(), m.Name(),
				stream[m.IsStreamingClient()], m.Input().Name(), stream[m.IsStreamingServer()], m.Output().Name()))
		}
	}
	return got
}

func typeName(fd protoreflect.FieldDescriptor) string {
	one := func(fd protoreflect.FieldDescriptor) string {
		if fd.Message() != nil {
			return string(fd.Message().Name())
		}
		return fd.Kind().String()
	}
	switch {
	case fd.IsMap():
		return fmt.Sprintf("map<%s, %s>", one(fd.MapKey()), one(fd.MapValue()))
	case fd.IsList():
		return "repeated " + one(fd)
	}
	return one(fd)
}
