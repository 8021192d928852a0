// Package transfer moves layers between a host's store and a blob store, behind
// the jobs' backs: an Uploader sends the packs and the index of each packed
// snapshot, a Fetcher reads ranges of blobs and goes on where a connection broke,
// and Missing says which layers a host must fetch before it can start from a
// snapshot.
//
// What is promised: a snapshot is reported durable only after the blob store has
// confirmed every blob of its layer, the index last; every byte a Fetcher hands
// out stood at that offset of what the blob store sent, in the length asked for.
// What is not: a Fetcher does not verify content. Whoever decodes a pack or an
// index checks it against digests that it knows from elsewhere.
package transfer
