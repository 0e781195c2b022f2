package etcd

import (
	"context"
	"errors"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

var (
	errDeleted = errors.New("the key was deleted by others")
	errDamaged = errors.New("the key was overwritten by others")
)

// A checked entry is one that was found or made right, or is another process's.
type checked struct {
	e  *entry
	at claim
}

// ask waits for an answer that needs a leader. It fails at once where there is no
// connection. A process that has registered something asks whether that is as it was
// left, which costs etcd little more than any other question; if it is more than a
// transaction holds, some of it each time.
func (r *Registry) ask(ctx context.Context, l *line) error {
	var all []checked
	r.mu.Lock()
	for _, e := range r.entries {
		if e.at.goal != nil && !e.queued {
			all = append(all, checked{e, e.at})
		}
	}
	r.mu.Unlock()
	if len(all) == 0 {
		_, err := l.raw.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(r.prefix), KeysOnly: true})
		return r.asked(err)
	}
	slices.SortFunc(all, func(a, b checked) int { return strings.Compare(a.e.key, b.e.key) })
	from := 0
	if len(all) > maxBatch { // go on behind the last one
		from, _ = slices.BinarySearchFunc(all, r.checkedTo+"\x00", func(c checked, key string) int { return strings.Compare(c.e.key, key) })
		from %= len(all)
	}
	some := all[from:min(len(all), from+maxBatch)]
	r.checkedTo = some[len(some)-1].e.key
	return r.asked(r.check(ctx, l, some))
}

// asked says whether there was no answer. That something is not permitted is one.
func (r *Registry) asked(err error) error {
	err = rpctypes.Error(err)
	if err != nil && !errors.Is(err, rpctypes.ErrPermissionDenied) {
		return err
	}
	r.answered()
	return nil
}

// check compares the revisions of keys with those at which they were right.
func (r *Registry) check(ctx context.Context, l *line, all []checked) error {
	req := &etcdserverpb.TxnRequest{}
	for _, c := range all {
		req.Compare = append(req.Compare, &etcdserverpb.Compare{
			Key: []byte(c.e.key), Target: etcdserverpb.Compare_MOD, Result: etcdserverpb.Compare_EQUAL,
			TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: c.at.revision},
		})
		req.Failure = append(req.Failure, &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{
			RequestRange: &etcdserverpb.RangeRequest{Key: []byte(c.e.key), KeysOnly: true},
		}})
	}
	res, err := l.raw.Txn(ctx, req)
	if err != nil || res.Succeeded {
		return err
	}
	for i, c := range all {
		kvs := res.Responses[i].GetResponseRange().Kvs
		switch {
		case len(kvs) == 0:
			r.lookAgain(c.e, c.at, errDeleted)
		case kvs[0].ModRevision != c.at.revision:
			r.lookAgain(c.e, c.at, errDamaged)
		}
	}
	return nil
}
