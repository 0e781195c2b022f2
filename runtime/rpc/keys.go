package rpc

// Keys of metadata that mean something to clients and servers.
const (
	// KeyAttempt is on a request that is not a call's first: the number of the
	// attempt, from 2 up. Clients set it and servers take it out; it is not for
	// programs to send.
	KeyAttempt = "micro-attempt"
	// KeyRetryAfter is for a handler or an interceptor to add to the response
	// metadata of a call that it fails: how many seconds a client is to wait at least
	// before it sends the call again, such as "2" or "0.25". A negative number asks it
	// not to.
	KeyRetryAfter = "retry-after"
)
