package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// keeping says which snapshots stay.
type keeping struct {
	last, hourly, daily, weekly, monthly, yearly int
}

// periods are the rules that keep the newest snapshot of each period. Two dates are of
// one period if they are the same in its form.
func (k *keeping) periods() []period {
	week := func(t time.Time) string {
		y, w := t.ISOWeek()
		return fmt.Sprintf("%d-%d", y, w)
	}
	form := func(layout string) func(time.Time) string {
		return func(t time.Time) string { return t.Format(layout) }
	}
	return []period{
		{"hourly", &k.hourly, form("2006-01-02 15")},
		{"daily", &k.daily, form(time.DateOnly)},
		{"weekly", &k.weekly, week},
		{"monthly", &k.monthly, form("2006-01")},
		{"yearly", &k.yearly, form("2006")},
	}
}

type period struct {
	name string
	n    *int
	of   func(time.Time) string
}

// choose returns why each of list, the oldest first, stays; those without a reason go.
func (k *keeping) choose(list []store.Info) map[snapshot.ID][]string {
	why := map[snapshot.ID][]string{}
	newest := slices.Clone(list)
	slices.Reverse(newest)
	for _, in := range newest[:min(k.last, len(newest))] {
		why[in.ID] = append(why[in.ID], "last")
	}
	for _, p := range k.periods() {
		left, at := *p.n, ""
		for _, in := range newest {
			if now := p.of(in.Made.Local()); left > 0 && now != at {
				why[in.ID] = append(why[in.ID], p.name)
				left, at = left-1, now
			}
		}
	}
	return why
}

func newSnapshotPrune() *cobra.Command {
	var (
		o   opened
		k   keeping
		dry bool
	)
	c := &cobra.Command{
		Use:   "prune",
		Short: "Delete old snapshots, but those that rules keep",
		Long: `Deletes all snapshots of the store that no rule keeps. --keep-last keeps the newest;
--keep-daily 7 keeps the newest snapshot of each of the last seven days that have
one, and so on; a snapshot stays if any rule keeps it. Days are those of the local
time zone. At least one rule must be given.

The rules count all snapshots of a store: give each directory a store of its own.` + exitHelp,
		Example:           "  roost snapshot prune --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run --store /var/backups/roost",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := k.check(); err != nil {
				return err
			}
			return o.with(cmd, false, func(ctx context.Context, s *store.Store) error {
				return o.prune(ctx, cmd, s, &k, dry)
			})
		},
	}
	o.flags(c)
	c.Flags().IntVar(&k.last, "keep-last", 0, "keep the newest `N`")
	for _, p := range k.periods() {
		unit := strings.TrimSuffix(p.name, "ly")
		if unit == "dai" {
			unit = "day"
		}
		c.Flags().IntVar(p.n, "keep-"+p.name, 0, "keep the newest of each of the last `N` "+unit+"s that have one")
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would be deleted, and why the others stay")
	return c
}

func (k *keeping) check() error {
	sum := k.last
	for _, p := range append(k.periods(), period{n: &k.last}) {
		if *p.n < 0 {
			return usageError(errors.New("a rule can't keep fewer than none"), "")
		}
		sum += *p.n
	}
	if sum == 0 {
		return usageError(errors.New("no rule says what to keep"), "such as --keep-last 10, or --keep-daily 7 --keep-weekly 4; roost snapshot rm deletes by name")
	}
	return nil
}

func (o *opened) prune(ctx context.Context, cmd *cobra.Command, s *store.Store, k *keeping, dry bool) error {
	list := s.List()
	why := k.choose(list)
	var gone []store.Info
	for _, in := range list {
		reasons, stays := why[in.ID]
		if !stays {
			gone = append(gone, in)
			continue
		}
		if !o.asJSON {
			fmt.Fprintf(cmd.OutOrStdout(), "keeping %s  %s  %s\n", in.ID, in.Made.Local().Format(time.DateTime), strings.Join(reasons, ", "))
		} else if err := printJSON(cmd.OutOrStdout(), map[string]any{"kept": in.ID, "why": reasons}); err != nil {
			return err
		}
	}
	return o.remove(ctx, cmd, s, gone, dry)
}
