package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/protomicro/micro/runtime/registry"
)

// explain says in an error where etcd is, and what to do where that is known.
func (r *Registry) explain(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, registry.ErrClosed) {
		return err
	}
	at := "etcd at " + strings.Join(r.client.Endpoints(), ", ")
	who := "this client"
	if r.client.Username != "" {
		who = fmt.Sprintf("user %q", r.client.Username)
	}
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("%s denies %s what is under %s: %w (its role needs readwrite on that prefix: "+
			"etcdctl role grant-permission ROLE readwrite --prefix %[3]s)", at, who, r.prefix, err)
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return fmt.Errorf("%s does not let %s in: %w (check Username and Password in clientv3.Config)", at, who, err)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%s lets nobody in without a name: %w (set Username and Password in clientv3.Config, or give it a client certificate)", at, err)
	case errors.Is(err, rpctypes.ErrInvalidAuthToken):
		return fmt.Errorf("%s does not take the token of %s: %w (if it is Token in clientv3.Config, it may have expired)", at, who, err)
	}
	if _, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errGivenUp) {
		if why := r.why(); why != nil {
			err = fmt.Errorf("%w (%w)", err, why) // the client only tells that time is over
		}
	}
	hint := ""
	switch text := err.Error(); {
	case strings.Contains(text, "x509: ") || strings.Contains(text, "tls: "):
		hint = " (check TLS in clientv3.Config: RootCAs has to have the authority of etcd's certificate, and Certificates one of this client if etcd asks for it)"
	case strings.Contains(text, "server preface") || strings.Contains(text, "broken pipe") || strings.Contains(text, "connection reset"):
		hint = " (it ends connections at once: it may want TLS, which is https:// in Endpoints of clientv3.Config, or a client certificate, which is Certificates in its TLS)"
	}
	return fmt.Errorf("%s does not answer: %w%s", at, err, hint)
}

// why is the cause of etcd's absence, as far as it is known.
func (r *Registry) why() error {
	r.mu.Lock()
	l, trouble := r.line, r.trouble
	r.mu.Unlock()
	if trouble == nil { // nobody has asked yet
		ctx, cancel := context.WithTimeout(r.ctx, 100*time.Millisecond)
		defer cancel()
		_, trouble = l.raw.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(r.prefix), KeysOnly: true})
		trouble = rpctypes.Error(trouble)
	}
	if trouble != nil && strings.Contains(trouble.Error(), context.DeadlineExceeded.Error()) {
		return nil // that is no more than is known
	}
	return trouble
}

// reason is why what was done under ctx failed.
func (r *Registry) reason(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return r.explain(err)
}
