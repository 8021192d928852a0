package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

func TestKeeping(t *testing.T) {
	var list []store.Info // twice a day, for 60 days
	at := time.Date(2026, 1, 1, 9, 0, 0, 0, time.Local)
	for i := range 120 {
		list = append(list, store.Info{ID: snapshot.ID(fmt.Sprint(i)), Made: at})
		at = at.AddDate(0, 0, i%2).Add(time.Duration(8-16*(i%2)) * time.Hour)
	}
	for _, c := range []struct {
		k    keeping
		want []int
	}{
		{keeping{last: 3}, []int{117, 118, 119}},
		{keeping{last: 200}, nil}, // all
		{keeping{daily: 3}, []int{115, 117, 119}},
		{keeping{hourly: 2}, []int{118, 119}},
		{keeping{weekly: 2}, []int{105, 119}}, // 1 March was a Sunday
		{keeping{monthly: 5}, []int{61, 117, 119}},
		{keeping{yearly: 1}, []int{119}},
		{keeping{last: 1, monthly: 2}, []int{117, 119}},
	} {
		why := c.k.choose(list)
		if c.want == nil {
			require.Len(t, why, len(list))
			continue
		}
		require.Len(t, why, len(c.want), "%+v: %v", c.k, why)
		for _, i := range c.want {
			require.Contains(t, why, list[i].ID, "%+v", c.k)
		}
	}
}
