package snapshot

// Piece is content of a file of a list of changes: Bytes, from Off on.
type Piece struct {
	Change int // its index
	Off    int64
	Bytes  []byte
}
