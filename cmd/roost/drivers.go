package main

// Drivers of packages that bring much with them register themselves.
import _ "github.com/roost-ci/roost/snapshot/view/containers"
