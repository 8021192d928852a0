package gitlab

import "github.com/roost-ci/roost/snapshot"

func (s *service) isCustom(snapshot.ID) bool { return false }
