package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	maxBatch      = 100       // keys of one transaction; etcd takes 128 operations
	maxBatchBytes = 512 << 10 // of their values; etcd takes 1.5 MB

	// What is written to an etcd that has lost its leader is lost as well, but that is
	// said only after seven seconds. To write it again does no harm.
	minPatience = 1500 * time.Millisecond
)

// queue has the keeper work on an entry, not before a time. r.mu is held.
func (r *Registry) queue(e *entry, after time.Time) {
	if e.queued {
		if after.Before(e.after) {
			e.after = after
		}
	} else {
		e.queued, e.after = true, after
		r.queued = append(r.queued, e)
	}
	select {
	case r.work <- struct{}{}:
	default: // it is woken already
	}
}

// queueLater is queue, after a pause that grows. Several that fail at once are done
// together again.
func (r *Registry) queueLater(e *entry) {
	const together = 100 * time.Millisecond
	after := time.Since(r.began) + e.pauses.next()
	r.queue(e, r.began.Add(after.Truncate(together)+together))
}

// keep brings all keys of this process to their goals until the registry is closed:
// one transaction at a time, with as many keys as wait for one. So a process that has
// to register everything again puts a bounded load on etcd, however much it has.
func (r *Registry) keep() {
	var pauses backoff
	pauses.max = min(maxBackoff, r.ttl/3)
	patience := minPatience
	for {
		batch, wait := r.take()
		if len(batch) == 0 {
			timer := time.NewTimer(wait)
			select {
			case <-r.work:
			case <-timer.C:
			case <-r.ctx.Done():
			}
			timer.Stop()
			if r.ctx.Err() != nil {
				return
			}
			continue
		}
		err := r.workOn(batch, patience)
		switch {
		case r.ctx.Err() != nil:
			return
		case err == nil:
			pauses.reset()
			patience = minPatience
			continue
		case errors.Is(err, context.DeadlineExceeded):
			patience = min(2*patience, attemptTimeout)
		}
		r.log.Debug("etcd registry: cannot write", "keys", len(batch), "first", batch[0].e.key, "error", err)
		r.retry(r.ctx, &pauses)
	}
}

// A job is an entry with the goal that it had when it was taken.
type job struct {
	e     *entry
	g     *goal
	force bool             // put it, whatever there is
	alone bool             // not with others
	kv    *mvccpb.KeyValue // what there is, where that was asked for
}

// take is what can be done now in one transaction, or how long there is nothing.
func (r *Registry) take() (batch []*job, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	wait = time.Hour
	bytes := 0
	var rest []*entry
	for _, e := range r.queued {
		size := len(e.key)
		if e.goal.reg != nil {
			size += len(e.goal.reg.value)
		}
		d := e.after.Sub(now)
		if d > 0 {
			wait = min(wait, d)
		}
		full := len(batch) >= maxBatch || bytes+size > maxBatchBytes || e.alone || len(batch) > 0 && batch[0].alone
		if d > 0 || full && len(batch) > 0 {
			rest = append(rest, e)
			continue
		}
		bytes += size
		e.queued = false
		batch = append(batch, &job{e: e, g: e.goal, force: e.goal.first && !e.goal.isMet(), alone: e.alone})
	}
	r.queued = rest
	return batch, wait
}

// workOn does what is to be done to some keys. An error is one of the connection, or
// of etcd: all are queued again.
func (r *Registry) workOn(batch []*job, patience time.Duration) error {
	line := r.currentLine()
	ctx, cancel := line.attempt(r.ctx, patience)
	defer cancel()
	l, err := r.workLease(ctx, line, batch)
	if err == nil {
		if err = r.read(ctx, line, batch); err == nil {
			err = r.write(ctx, line, l, batch)
		}
	}
	if err == nil || r.ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		l.lose(err)
	}
	if permanent(err) {
		if len(batch) > 1 { // whose fault it is, each will show by itself
			r.mu.Lock()
			for _, j := range batch {
				j.e.alone = true
			}
			r.mu.Unlock()
			r.again(batch)
			return nil
		}
		r.fails(batch[0], err)
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range batch {
		j.falls(err)
		r.queue(j.e, time.Time{}) // keep pauses for all
	}
	return err
}

// workLease is the lease that a batch needs, or nil if it only deletes.
func (r *Registry) workLease(ctx context.Context, line *line, batch []*job) (*lease, error) {
	for _, j := range batch {
		if j.g.reg == nil {
			continue
		}
		l, err := r.liveLease(ctx, line)
		if err != nil {
			return nil, fmt.Errorf("get a lease: %w", r.reason(ctx, err))
		}
		return l, nil
	}
	return nil, nil //nolint:nilnil // no lease is needed
}

// read looks at the keys that must not be written whatever they are.
func (r *Registry) read(ctx context.Context, line *line, batch []*job) error {
	var gets []clientv3.Op
	for _, j := range batch {
		if j.reads() {
			gets = append(gets, clientv3.OpGet(j.e.key))
		}
	}
	if len(gets) == 0 {
		return nil
	}
	res, err := line.kv.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return fmt.Errorf("get %s: %w", named(batch), r.reason(ctx, err))
	}
	r.answered()
	i := 0
	for _, j := range batch {
		if j.reads() {
			if kvs := res.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
				j.kv = kvs[0]
			}
			i++
		}
	}
	return nil
}

// reads says whether it depends on the key what is to be done. One that was never put
// needs no removal.
func (j *job) reads() bool { return !j.force && (j.g.reg != nil || len(j.e.leases) > 0) }

// write puts and deletes what is not right, unless it is another process's.
func (r *Registry) write(ctx context.Context, line *line, l *lease, batch []*job) error {
	var ops []clientv3.Op
	var written []*job
	for _, j := range batch {
		is := clientv3.Compare(clientv3.ModRevision(j.e.key), "=", j.kv.GetModRevision())
		ours := j.kv == nil || j.e.leases[clientv3.LeaseID(j.kv.Lease)]
		switch {
		case j.g.reg == nil && (j.kv == nil || !ours):
			r.removed(j)
			continue
		case j.g.reg == nil:
			ops = append(ops, clientv3.OpTxn([]clientv3.Cmp{is}, []clientv3.Op{clientv3.OpDelete(j.e.key)}, nil))
		case j.force:
			ops = append(ops, clientv3.OpPut(j.e.key, j.g.reg.value, clientv3.WithLease(l.id)))
		case ours && j.g.right(l, j.kv):
			r.stands(j, claim{revision: j.kv.ModRevision, lease: l})
			continue
		case !ours && r.isInstance(j.kv):
			r.isTaken(j, l)
			continue
		default:
			ops = append(ops, clientv3.OpTxn([]clientv3.Cmp{is}, []clientv3.Op{clientv3.OpPut(j.e.key, j.g.reg.value, clientv3.WithLease(l.id))}, nil))
		}
		if j.g.reg != nil {
			j.e.leases[l.id] = true // whatever the answer
		}
		written = append(written, j)
	}
	if len(ops) == 0 {
		return nil
	}
	res, err := line.kv.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return fmt.Errorf("write %s: %w", named(written), r.reason(ctx, err))
	}
	r.answered()
	var raced []*job
	for i, j := range written {
		switch {
		case !j.force && !res.Responses[i].GetResponseTxn().Succeeded:
			j.falls(fmt.Errorf("write %s: %w", j.e.key, errRaced))
			raced = append(raced, j)
		case j.g.reg == nil:
			r.removed(j)
		default:
			clear(j.e.leases)
			j.e.leases[l.id] = true
			r.stands(j, claim{revision: res.Header.Revision, lease: l})
		}
	}
	r.again(raced)
	return nil
}

func named(batch []*job) string {
	if len(batch) == 1 {
		return batch[0].e.key
	}
	return fmt.Sprintf("%s and %d more", batch[0].e.key, len(batch)-1)
}

// isInstance says whether another process has registered there.
func (r *Registry) isInstance(kv *mvccpb.KeyValue) bool {
	if kv.Lease == 0 {
		return false
	}
	_, err := r.decode(kv)
	return err == nil
}

// stands notes that a key is as it is to be.
func (r *Registry) stands(j *job, at claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if j.e.goal != j.g {
		return // there is another goal, which is queued
	}
	at.goal, at.since = j.g, time.Now()
	j.e.at, j.e.alone = at, false
	j.g.reg.stands(at.lease)
	if !j.g.isMet() {
		close(j.g.met)
	}
	if at.lease.ctx.Err() != nil { // it was lost before it could be seen that this is under it
		r.queue(j.e, time.Time{})
	}
}

// isTaken notes that a key is another process's, which it is left to.
func (r *Registry) isTaken(j *job, l *lease) {
	if !errors.Is(j.g.reg.State().LastError, errTaken) {
		r.log.Warn("etcd registry: another process registers the same instance", "key", j.e.key)
	}
	j.g.reg.falls(errTaken)
	r.mu.Lock()
	defer r.mu.Unlock()
	if j.e.goal == j.g {
		j.e.at = claim{goal: j.g, revision: j.kv.ModRevision, lease: l, taken: true, since: time.Now()}
		j.e.alone = false
	}
}

// removed notes that a key is not there any more, or is not ours.
func (r *Registry) removed(j *job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(j.g.met)
	clear(j.e.leases)
	if j.e.goal == j.g {
		j.e.gone = true
		j.g.end()
		delete(r.entries, j.e.key)
	}
}

// falls notes why an instance is not registered.
func (j *job) falls(err error) {
	if j.g.reg != nil && !j.g.reg.State().Registered {
		j.g.reg.falls(err)
	}
}

// fails is for what is the entry's own fault.
func (r *Registry) fails(j *job, err error) {
	news := true
	if j.g.reg != nil {
		last := j.g.reg.State().LastError
		news = last == nil || last.Error() != err.Error()
	}
	j.falls(err)
	if j.force {
		select {
		case j.g.refused <- err: // Register gives up, and sets another goal
			return
		default:
		}
	}
	if news {
		r.log.Warn("etcd registry: cannot write", "key", j.e.key, "error", err)
	}
	r.again([]*job{j})
}

// again queues entries again, each after a pause of its own.
func (r *Registry) again(batch []*job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range batch {
		if j.e.goal == j.g && j.alone == j.e.alone {
			r.queueLater(j.e)
		} else {
			r.queue(j.e, time.Time{})
		}
	}
}

// lookAgain queues what was found to be otherwise than it was left.
func (r *Registry) lookAgain(e *entry, at claim, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.at != at || e.gone || e.goal != at.goal {
		return // it was looked at since
	}
	e.at = claim{}
	if !at.taken {
		at.goal.reg.falls(why)
		r.log.Warn("etcd registry: an instance is to be registered again", "key", e.key, "error", why)
	}
	if time.Since(at.since) > settled {
		e.pauses.reset()
	}
	r.queueLater(e)
}

// leaseLost queues all that was under a lease.
func (r *Registry) leaseLost(l *lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		if e.at.lease == l && !e.at.taken {
			e.at = claim{}
			r.queue(e, time.Time{})
		}
	}
}
