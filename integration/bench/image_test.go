//go:build bench && linux

package bench

import (
	"github.com/roost-ci/roost/snapshot"
)

// imageNotCached is what the first view of a snapshot costs whose content is on
// this host while no image of it is. A driver without images has nothing to cache.
func (b *bench) imageNotCached(h *host, k key, id snapshot.ID) {}
