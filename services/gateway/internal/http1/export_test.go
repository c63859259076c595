package http1

// WatchAfter is how long a request takes until its client is watched.
const WatchAfter = watchAfter
