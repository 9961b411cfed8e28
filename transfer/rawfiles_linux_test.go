package transfer

// rawFiles says that the system sends chunks from their files.
const rawFiles = true
