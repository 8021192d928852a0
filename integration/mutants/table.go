package main

// promises is the package whose tests prove most of them.
const promises = "./integration/promises"

// Small numbers, but enough that a mutant does not get through by luck.
var (
	someKills  = []string{"ROOST_STORE_KILLS=60", "ROOST_DRIVER=overlay", "ROOST_SEED=11"}
	manyFaults = []string{"ROOST_PROMISES=ci", "ROOST_DRIVER=overlay", "ROOST_SEED=11"}
	overlay    = []string{"ROOST_DRIVER=overlay", "ROOST_SEED=11"}
	someCuts   = append([]string{"ROOST_CUTS=100"}, overlay...)
	copying    = []string{"ROOST_DRIVER=copy", "ROOST_SEED=11"}
)

// mutants are kept in the order of the promises. Old text is short, so that it
// changes only with what it means.
var mutants = []mutant{
	// Nothing acknowledged is lost.
	{
		name: "no fsync before the rename", promise: "power cut",
		file: "internal/durable/durable.go",
		old:  "if err := f.Sync(); err != nil {", new: "if err := error(nil); err != nil {",
		pkg: promises, run: "^TestOrder$", env: overlay,
	},
	{
		name: "no fsync of the directory", promise: "power cut",
		file: "internal/durable/sync_unix.go",
		old:  "return d.Sync()", new: "return nil",
		pkg: promises, run: "^TestOrder$", env: overlay,
	},
	{
		name: "the database does not sync", promise: "power cut",
		file: "snapshot/store/redo_linux.go",
		old:  "err := unix.Fdatasync(int(f.Fd()));", new: "err := error(nil);",
		pkg: promises, run: "^TestOrder$", env: overlay,
	},
	{
		name: "nobody waits for the record of a row", promise: "power cut",
		file: "snapshot/store/db.go",
		old:  "if err != nil || r == nil {", new: "if err != nil || r != nil {",
		pkg: promises, run: "^TestOrder$", env: overlay,
	},
	{
		name: "a seal is recorded by chance", promise: "power cut",
		file: "snapshot/store/db.go",
		old:  "if !s.spawn(func() { s.record(r, allOfIt) }) {", new: "if !s.spawn(func() {}) {",
		pkg: "./snapshot/store", run: "^TestRecordsFollow$",
	},
	{
		name: "row before files", promise: "power cut",
		file: "snapshot/store/packing_save.go",
		old:  "if err := s.saveTree(ctx, l.info.ID, ix.Manifest, m); err != nil {\n\t\treturn err\n\t}",
		new:  "defer s.saveTree(ctx, l.info.ID, ix.Manifest, m)",
		pkg:  promises, run: "^TestOrder$", env: overlay,
	},
	{
		name: "a sync that syncs nothing", promise: "power cut",
		file: "snapshot/store/run.go",
		old:  "err := s.driver.Sync(ctx, l.place())", new: "err := error(nil)",
		pkg: promises, run: "^TestPowerCut$", env: someCuts,
	},
	{
		name: "what was not synced is trusted after a restart", promise: "power cut",
		file: "snapshot/store/recover.go",
		old:  "if !l.info.Synced && (s.o.BootID", new: "if false && (s.o.BootID",
		pkg: promises, run: "^TestPowerCut$", env: someCuts,
	},
	{
		name: "names that a power cut takes back", promise: "power cut",
		file: "internal/durable/sync_unix.go",
		old:  "return d.Sync()", new: "return nil",
		pkg: promises, run: "^TestPowerCut$", env: someCuts,
	},
	{
		name: "an error of a sync is lost with who asked", promise: "power cut",
		file: "snapshot/store/run.go",
		old:  "if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {", new: "if ctx.Err() != nil {",
		pkg: "./snapshot/store", run: "^TestFailedSyncOfWhoLeft$",
	},
	{
		name: "files of an earlier process are not asked", promise: "power cut",
		file: "snapshot/view/frame.go",
		old:  "err == nil && late {", new: "err == nil && late && false {",
		pkg: "./snapshot/view", run: "^TestSyncOfAnEarlierProcess$",
	},
	{
		name: "sealed while its parent falls", promise: "power cut",
		file: "snapshot/store/seal.go",
		old:  `on != "" && in.State.Usable() { // since inherit`, new: `false && on != "" { // since inherit`,
		pkg: "./snapshot/store", run: "^TestFailedSyncOfAParent$",
	},
	{
		name: "what is fetched counts as synced at once", promise: "power cut",
		file: "snapshot/store/import_keep.go",
		old:  "Synced: !spec.Later,", new: "Synced: true,",
		pkg: "./snapshot/store", run: "^TestLaterDoesNotOutliveTheBoot$",
	},
	{
		name: "an import for good stands on what is not synced", promise: "power cut",
		file: "snapshot/store/import_later.go",
		old:  "if pending {", new: "if pending && false {",
		pkg: "./snapshot/store", run: "^TestLaterIsSyncedForWhatStandsOnIt$",
	},
	{
		name: "acknowledged before the commit", promise: "kill -9",
		file: "snapshot/store/seal.go",
		old:  "if err := s.insertSealed(ctx, l, outcome); err != nil {",
		new:  "go func() { syscall.Nanosleep(&syscall.Timespec{Nsec: 2e7}, nil); s.insertSealed(context.WithoutCancel(ctx), l, outcome) }()\n\tif err := error(nil); err != nil {",
		pkg:  promises, run: "^TestKill$", env: someKills,
	},
	{
		name: "mounts of the dead stay", promise: "kill -9",
		file: "snapshot/view/reconcile_linux.go",
		old:  "if err := o.unmount(ctx, m.point, o.ReconcileWait); err != nil {", new: "if err := error(nil); err != nil {",
		pkg: promises, run: "^TestKill$", env: someKills,
	},
	{
		name: "removals are not finished", promise: "kill -9",
		file: "snapshot/store/recover.go",
		old:  "if err := s.finishIntents(ctx); err != nil {", new: "if err := error(nil); err != nil {",
		pkg: promises, run: "^TestKill$", tags: "failpoints", env: append([]string{"ROOST_STORE_KILLS=240"}, overlay...),
	},
	{
		name: "temporary files stay", promise: "kill -9",
		file: "snapshot/store/recover.go",
		old:  `dir := filepath.Join(s.dir, "tmp")`, new: `dir := filepath.Join(s.dir, "trash")`,
		pkg: promises, run: "^TestKill$", tags: "failpoints", env: append([]string{"ROOST_STORE_KILLS=240"}, overlay...),
	},

	// A full or dying disk.
	{
		name: "an import that failed is in the way of the next", promise: "ENOSPC and EIO",
		file: "snapshot/store/import_parts_unpack.go",
		old:  "|| !s.abandoned(id) {", new: "|| true {",
		pkg: promises, run: "^TestFaults$", env: append([]string{"ROOST_OPERATION=import"}, manyFaults...),
	},
	{
		name: "an error of a rename is swallowed", promise: "ENOSPC and EIO",
		file: "internal/durable/durable.go",
		old:  "os.Remove(f.Name()) //nolint:errcheck // the first error is the one to tell\n\t\treturn err",
		new:  "return nil",
		pkg:  promises, run: "^TestFaults$", env: append([]string{"ROOST_OPERATION=import"}, manyFaults...),
	},
	{
		name: "removal without the reserve", promise: "ENOSPC and EIO",
		file: "snapshot/store/db.go",
		old:  "s.reserve.give() {", new: "false {",
		pkg: "./snapshot/store", run: "^TestReserve$",
	},

	// Flipped bits.
	{
		name: "checksum of a file not looked at", promise: "flipped bits",
		file: "snapshot/pack/seal.go",
		old:  "!bytes.Equal(sum[:], b[n:]) {", new: "false && !bytes.Equal(sum[:], b[n:]) {",
		pkg: promises, run: "^TestFlips$",
	},
	{
		name: "digest of a chunk not looked at", promise: "flipped bits",
		file: "snapshot/pack/extract.go",
		old:  "id != want && err == nil {", new: "false && id != want && err == nil {",
		pkg: promises, run: "^TestFlips$",
	},
	{
		name: "the domain's key ignored", promise: "flipped bits",
		file: "snapshot/pack/cut.go",
		old:  "keyed{hmac.New(sha256.New, key)}", new: "keyed{hmac.New(sha256.New, nil)}",
		pkg: "./snapshot/store", run: "^TestImportRefuses$",
	},
	{
		name: "content of files not verified", promise: "flipped bits",
		file: "snapshot/store/verify.go",
		old:  "if !same {\n\t\treturn &snapshot.CorruptError{What: \"file\"", new: "if false && !same {\n\t\treturn &snapshot.CorruptError{What: \"file\"",
		pkg: "./snapshot/store", run: "^TestImportReplacesSuspects$",
	},

	// Malicious layers.
	{
		name: "two dots allowed", promise: "malicious layers",
		file: "snapshot/pack/check.go",
		old:  `case name == "." || name == "..":`, new: `case name == ".":`,
		pkg: "./snapshot/pack", run: "^TestManifest",
	},
	{
		name: "frame may leave its pack", promise: "malicious layers",
		file: "snapshot/pack/check.go",
		old:  "case f.Off < end || f.Off > bytes ||", new: "case false && f.Off < end || false && f.Off > bytes || false &&",
		pkg: "./snapshot/pack", run: "^(TestIndex|FuzzReadIndex)",
	},
	{
		name: "a way out of the tree", promise: "malicious layers",
		file: "snapshot/view/place_linux.go",
		old:  "Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,", new: "",
		pkg: "./snapshot/view", run: "^TestBeneath$",
	},

	// Fuzzers, by their seeds.
	{
		name: "numbers in a long form", promise: "fuzzers",
		file: "snapshot/pack/cursor.go",
		old:  "case n > 1 && c.b[c.off+n-1] == 0:", new: "case false:",
		pkg: "./snapshot/pack", run: "^(FuzzReadManifest|TestManifestOnlyCanonical)$",
	},
	{
		name: "a chunk of other bytes", promise: "fuzzers",
		file: "snapshot/pack/extract.go",
		old:  "id != want && err == nil {", new: "false && id != want {",
		pkg: "./snapshot/pack", run: "^FuzzExtract$",
	},
	{
		name: "a frame as long as it likes", promise: "fuzzers",
		file: "snapshot/pack/codec.go",
		old: "if h.Skippable || !h.SingleSegment || !h.HasFCS || h.FrameContentSize != uint64(cap(dst)) || h.DictionaryID != 0 {\n\t\treturn nil, errSize\n\t}\n" +
			"\td := decoders.Get().(*zstd.Decoder)\n\tdefer decoders.Put(d)\n\tb, err := d.DecodeAll(p, dst)\n\tif err != nil {\n\t\treturn nil, fmt.Errorf(\"zstd: %w\", err)\n\t}\n" +
			"\tif len(b) != cap(dst) {",
		new: "d := decoders.Get().(*zstd.Decoder)\n\tdefer decoders.Put(d)\n\tb, err := d.DecodeAll(p, dst)\n\tif err != nil {\n\t\treturn nil, fmt.Errorf(\"zstd: %w\", err)\n\t}\n" +
			"\tif false {",
		pkg: "./snapshot/pack", run: "^FuzzFrame$",
	},
	{
		name: "extents not looked at", promise: "fuzzers",
		file: "snapshot/view/internal/erofs/content.go",
		old:  "if err := checkExtents(size, extents, block, devices); err != nil {",
		new:  "if err := checkExtents(size, extents, block, devices); false && err != nil {",
		pkg:  "./snapshot/view/internal/erofs", run: "^(FuzzWrite|TestOddExtents)$",
	},
	{
		name: "times of files not set", promise: "fuzzers",
		file: "snapshot/view/place_linux.go",
		old:  `return unix.UtimesNanoAt(int(f.Fd()), "", ts, unix.AT_EMPTY_PATH)`, new: "_ = ts\n\treturn nil",
		pkg: "./snapshot/view", run: "^FuzzUnpack$",
	},

	// Hostile trees.
	{
		name: "whiteout ignored", promise: "hostile trees",
		file: "snapshot/view/laying.go",
		old:  "if it.char {\n\t\ty.items.step()\n\t\tif has {",
		new:  "if it.char {\n\t\ty.items.step()\n\t\tif false {",
		pkg:  promises, run: "^TestHostileTrees$", env: overlay,
	},
	{
		name: "opaque directory ignored", promise: "hostile trees",
		file: "snapshot/view/laying.go",
		old:  "if has && stands && !it.opaque && on ==", new: "if has && stands && on ==",
		pkg: promises, run: "^TestHostileTrees$", env: overlay,
	},
	{
		name: "rename of a directory ignored", promise: "hostile trees",
		file: "snapshot/view/laying.go",
		old:  `strings.CutPrefix(m.redirect, "/"); ok {`, new: `strings.CutPrefix(m.redirect, "/"); ok && false {`,
		pkg: promises, run: "^TestHostileTrees$", env: overlay,
	},
	{
		name: "times cut to seconds", promise: "hostile trees",
		file: "snapshot/view/place_unix.go",
		old:  "ts := []unix.Timespec{unix.NsecToTimespec(e.MTime), unix.NsecToTimespec(e.MTime)}",
		new:  "ts := []unix.Timespec{{Sec: e.MTime / 1e9}, {Sec: e.MTime / 1e9}}",
		pkg:  promises, run: "^TestHostileTrees$", env: copying,
	},
	{
		name: "busy view sealed", promise: "hostile trees",
		file: "snapshot/view/overlay_linux.go",
		old:  "func() error { return setReadOnly(t, true) })\n\tif err != nil {\n\t\treturn err\n\t}\n\tfail.Point(\"view.seal.readonly\")",
		new:  "func() error { return nil })\n\tif err != nil {\n\t\treturn err\n\t}",
		pkg:  "./snapshot/view", run: "^TestSealSeesOtherNamespaces$",
	},

	// What may go, what belongs together, who may say so.
	{
		name: "the only copy removed", promise: "nothing is lost",
		file: "snapshot/store/remove.go",
		old:  "!force && (st == Sealed || st == Packed) {", new: "false && (st == Sealed || st == Packed) {",
		pkg: "./snapshot/store", run: "^TestRemove$",
	},
	{
		name: "gathered files deleted while they are shown", promise: "nothing is lost",
		file: "snapshot/store/gather.go",
		old:  "if s.leanedOnLocked(l) {", new: "if false {",
		pkg: "./snapshot/store", run: "^TestGather",
	},
	{
		name: "a long line loses a layer", promise: "nothing is lost",
		file: "snapshot/store/image.go",
		old:  "slices.Clone(place.Lowers[:k])", new: "slices.Clone(place.Lowers[:max(0, k-1)])",
		pkg: "./snapshot/store", run: "^TestLongLine$",
	},
	{
		name: "changed and given back its old time", promise: "nothing is lost",
		file: "snapshot/tree/resurvey_linux.go",
		old:  "inNanos(st.Ctime) != k.inode.CTime, ", new: "",
		pkg: "./snapshot/store", run: "^TestCreateNoticesEveryChange$",
	},
	{
		name: "conflict swallowed", promise: "merges",
		file: "snapshot/tree/merge_conflict.go",
		old:  "return m.firstThatHas(parties), false", new: "m.conflicts = nil\n\treturn m.firstThatHas(parties), true",
		pkg: "./snapshot/tree", run: "^TestMerge$",
	},
	{
		name: "wrong merge base", promise: "merges",
		file: "snapshot/tree/graph.go",
		old:  "return Maximal(graph, common)", new: "return common[:min(1, len(common))]",
		pkg: "./snapshot/tree", run: "^TestGraph$",
	},
	{
		name: "epoch not looked at", promise: "one output per job",
		file: "coordinator/attempts.go",
		old:  "if a.Epoch != r.Epoch {", new: "if false {",
		pkg: "./coordinator", run: "^TestEpoch$",
	},
}
