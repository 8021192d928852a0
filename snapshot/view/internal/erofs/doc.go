// Package erofs writes metadata images in the kernel's EROFS format and mounts
// them. An image is the whole tree of one snapshot: names, attributes, links and,
// for each file, where its bytes lie. It holds no file content. Bytes lie in
// bundles, which are plain files that the mount gets as extra devices, or in
// objects, which an overlay mount above reaches by a redirect (data-only lowers).
//
// The words:
//   - device: a bundle as the image sees it, by its place in the list that both
//     Write and Mount get; the list must be the same.
//   - extent: a run of a file's blocks in one device. Blocks have 512 bytes.
//   - nid: the number of an inode and its place in the image, in units of 32
//     bytes; stat(2) shows it as the inode number. A child's image keeps the nids
//     of its base's paths, so that tools which compare inode numbers (git) see a
//     file that did not change as one that did not change.
//
// The same tree, places and base give the same bytes. What is written is meant
// for the kernel of this host and is never sent: an image is parsed by the kernel,
// so it is made here, from a verified manifest, and no other image is mounted.
//
// # Layout
//
// All numbers are little endian; the structures are those of the kernel's
// fs/erofs/erofs_fs.h.
//
//	0      nothing
//	1024   superblock (128 bytes), then the device table (128 bytes each)
//	       directory blocks and long symlink targets, in the order in which
//	       directories end
//	       shared extended attributes: those too large to stand by their inode
//	       inodes: 64 bytes, attributes, then chunk indexes or a symlink target
//
// Inodes come last so that the image can be written in one sweep with only them
// in memory, about 100 bytes an entry, or in a scratch file. The superblock is written after all else:
// a file that was not finished has none and can't be mounted.
package erofs
