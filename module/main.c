// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/cowsnap: the device and the reading and answering of requests.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/compat.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/nospec.h>
#include <linux/uaccess.h>
#include <linux/utsname.h>

#include "compat.h"
#include "cowsnap.h"
#include "large.h"
#include "workers.h"

#if !defined(CONFIG_HUGETLB_PAGE)
#define COWSNAP_KINDS_HUGETLB	0
#elif defined(COWSNAP_UNMAP_REF_BY_ADDRESS)	/* see hugetlb.c */
#define COWSNAP_KINDS_HUGETLB	COWSNAP_KIND_HUGETLB
#else
#define COWSNAP_KINDS_HUGETLB	(COWSNAP_KIND_HUGETLB | \
				 COWSNAP_KIND_HUGETLB_RESERVED)
#endif

#define COWSNAP_KINDS	(COWSNAP_KIND_ANON | \
			 (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) ? \
			  COWSNAP_KIND_THP : 0) | \
			 COWSNAP_KIND_FILE | COWSNAP_KINDS_HUGETLB)

union request {
	struct {
		u32 size;
		u32 flags;
	};
	struct cowsnap_query query;
	struct cowsnap_remap remap;
	struct cowsnap_unshare unshare;
	struct cowsnap_sync sync;
	struct cowsnap_diff diff;
	struct cowsnap_release release;
};

/*
 * @run is given what reading the request came to: it serves the request only
 * when that is 0, and sets every output.
 */
struct command {
	size_t size;		/* of the struct, as this module knows it */
	size_t out;		/* offset of the first output */
	int (*run)(union request *req, struct cowsnap_op *op, int err);
};

/* One ioctl(). */
struct call {
	const struct command *cmd;
	char __user *arg;
	size_t size;		/* as much of it as there is to answer into */
	bool answered;		/* by cowsnap_remap_answer() */
	union request req;
	struct cowsnap_op op;
};

static void fill_query(struct cowsnap_query *query);

static int run_query(union request *req, struct cowsnap_op *op, int err)
{
	struct cowsnap_query *query = &req->query;

	if (!err && query->flags)
		err = cowsnap_refuse(op, 0, COWSNAP_REASON_FLAG_UNKNOWN,
				     -EOPNOTSUPP);
	*query = (struct cowsnap_query){
		.size = query->size,
		.flags = query->flags,
		.reason = op->reason,
	};
	if (!err)
		fill_query(query);
	return err;
}

static void fill_remap(struct cowsnap_remap *remap, const struct cowsnap_op *op,
		       int err)
{
	remap->shared = err ? 0 : op->shared;
	remap->copied = err ? 0 : op->copied;
	remap->fault_addr = op->fault_addr;
	remap->reason = op->reason;
}

static int run_remap(union request *req, struct cowsnap_op *op, int err)
{
	struct cowsnap_remap *remap = &req->remap;
	u64 dst = remap->dst;

	op->mm = current->mm;
	op->flags = remap->flags;
	op->src = remap->src;
	op->len = remap->len;
	op->dst = remap->dst;
	op->reserved = remap->reserved;
	op->no_answer = remap->size < offsetofend(struct cowsnap_remap, dst);
	if (!err)
		err = cowsnap_remap(op);
	remap->dst = err ? dst : op->dst;
	fill_remap(remap, op, err);
	return err;
}

static int run_unshare(union request *req, struct cowsnap_op *op, int err)
{
	struct cowsnap_unshare *unshare = &req->unshare;

	op->mm = current->mm;
	op->flags = unshare->flags;
	op->src = unshare->addr;
	op->len = unshare->len;
	op->node = unshare->node;
	op->reserved = unshare->reserved;
	if (!err)
		err = cowsnap_unshare(op);
	/* Also after a failure: the caller may go on from there. */
	unshare->copied = op->copied;
	unshare->reused = op->reused;
	unshare->fault_addr = op->fault_addr;
	unshare->reason = op->reason;
	unshare->reserved2 = 0;
	return err;
}

static int run_sync(union request *req, struct cowsnap_op *op, int err)
{
	struct cowsnap_sync *sync = &req->sync;

	op->mm = current->mm;
	op->flags = sync->flags;
	op->src = sync->from;
	op->dst = sync->to;
	op->len = sync->len;
	op->reserved = sync->reserved;
	if (!err)
		err = cowsnap_sync(op);
	sync->changed = op->changed;
	sync->fault_addr = op->fault_addr;
	sync->reason = op->reason;
	return err;
}

static int run_diff(union request *req, struct cowsnap_op *op, int err)
{
	struct cowsnap_diff *diff = &req->diff;

	op->mm = current->mm;
	op->flags = diff->flags;
	op->src = diff->a;
	op->dst = diff->b;
	op->len = diff->len;
	op->vec = u64_to_user_ptr(diff->vec);
	op->vec_len = diff->vec_len;
	op->offset = diff->start_offset;
	op->reserved = diff->reserved;
	if (!err)
		err = cowsnap_diff(op);
	diff->nr = op->nr;
	diff->next_offset = op->offset;
	diff->fault_addr = op->fault_addr;
	diff->reason = op->reason;
	return err;
}

static int run_release(union request *req, struct cowsnap_op *op, int err)
{
	struct cowsnap_release *release = &req->release;

	op->mm = current->mm;
	op->flags = release->flags;
	op->src = release->src;
	op->dst = release->dst;
	op->len = release->len;
	op->reserved = release->reserved;
	if (!err)
		err = cowsnap_release(op);
	release->reused = op->reused;
	release->copied = 0;
	release->fault_addr = op->fault_addr;
	release->reason = op->reason;
	return err;
}

static const struct command commands[] = {
	[_IOC_NR(COWSNAP_QUERY)] = {
		.size = sizeof(struct cowsnap_query),
		.out = offsetof(struct cowsnap_query, abi),
		.run = run_query,
	},
	[_IOC_NR(COWSNAP_REMAP)] = {
		.size = sizeof(struct cowsnap_remap),
		.out = offsetof(struct cowsnap_remap, dst),
		.run = run_remap,
	},
	[_IOC_NR(COWSNAP_UNSHARE)] = {
		.size = sizeof(struct cowsnap_unshare),
		.out = offsetof(struct cowsnap_unshare, copied),
		.run = run_unshare,
	},
	[_IOC_NR(COWSNAP_SYNC)] = {
		.size = sizeof(struct cowsnap_sync),
		.out = offsetof(struct cowsnap_sync, changed),
		.run = run_sync,
	},
	[_IOC_NR(COWSNAP_DIFF)] = {
		.size = sizeof(struct cowsnap_diff),
		.out = offsetof(struct cowsnap_diff, nr),
		.run = run_diff,
	},
	[_IOC_NR(COWSNAP_RELEASE)] = {
		.size = sizeof(struct cowsnap_release),
		.out = offsetof(struct cowsnap_release, reused),
		.run = run_release,
	},
};

static void fill_query(struct cowsnap_query *query)
{
	query->abi = COWSNAP_ABI;
	query->ops = (1u << ARRAY_SIZE(commands)) - 1;
	query->remap_flags = COWSNAP_REMAP_FLAGS;
	query->unshare_flags = COWSNAP_UNSHARE_FLAGS;
	query->kinds = COWSNAP_KINDS;
	query->huge_whole = COWSNAP_HUGE_WHOLE;
}

/* Is the part of the argument that we do not know zero? 0, or an error. */
static int check_tail(const char __user *arg, size_t from, size_t size)
{
	size_t nr;
	int ret;

	for (; from < size; from += nr) {
		nr = min_t(size_t, size - from, PAGE_SIZE);
		ret = check_zeroed_user(arg + from, nr);
		if (ret <= 0)
			return ret ? ret : -E2BIG;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

/*
 * Read the argument as copy_struct_from_user() does. *@size becomes how much of
 * it there is to answer into; 0 when it could not be read at all.
 */
static int read_request(const struct command *cmd, void __user *arg,
			union request *req, size_t *size)
{
	u32 usize;
	int err;

	*size = 0;
	if (get_user(usize, (u32 __user *)arg))
		return -EFAULT;
	if (usize < sizeof(req->size) + sizeof(req->flags))
		return -EINVAL;
	err = copy_struct_from_user(req, cmd->size, arg,
				    min_t(size_t, usize, cmd->size));
	if (err)
		return err;
	req->size = usize;	/* the caller may have changed it meanwhile */
	*size = min_t(size_t, usize, cmd->size);
	return check_tail(arg, cmd->size, usize);
}

/* Store the outputs, as many as the caller's struct has room for. */
static int write_result(const struct call *call)
{
	size_t out = call->cmd->out;

	if (call->size <= out)
		return 0;
	if (cowsnap_fault_once() ||
	    copy_to_user(call->arg + out, (const char *)&call->req + out,
			 call->size - out))
		return -EFAULT;
	return 0;
}

/* How often what was faulted in may be gone again when it is stored to. */
#define ANSWER_TRIES	10

/**
 * cowsnap_remap_answer - tell the caller of a duplicate before anybody has it
 * @op: a REMAP that has succeeded; its struct has room for dst
 *
 * Context: the mmap lock is held for writing, as for all of the call: nobody can
 * have changed the duplicate or made use of it, and the call can be undone as
 * after any other failure. A copy that faults would take that lock, so faults
 * are served here. They are rare: the memory was written to before the call, and
 * is not ready only when it lies in the source or the destination, or when
 * reclaim was fast.
 * Return: 0 or -EFAULT.
 */
int cowsnap_remap_answer(struct cowsnap_op *op)
{
	struct call *call = container_of(op, struct call, op);
	size_t out = call->cmd->out, len = call->size - out;
	unsigned long start = (unsigned long)call->arg + out;
	int tries;

	mmap_assert_write_locked(op->mm);
	call->req.remap.dst = op->dst;
	fill_remap(&call->req.remap, op, 0);
	for (tries = 0; tries < ANSWER_TRIES && !cowsnap_fault_once(); tries++) {
		if (!copy_to_user_nofault(call->arg + out,
					  (char *)&call->req + out, len)) {
			call->answered = true;
			return 0;
		}
		/* On one page or two. */
		if (cowsnap_make_writable(op, start) ||
		    cowsnap_make_writable(op, start + len - 1))
			break;
	}
	return cowsnap_refuse(op, 0, COWSNAP_REASON_RESULT, -EFAULT);
}

static long serve(const struct command *cmd, void __user *arg)
{
	struct call call = { .cmd = cmd, .arg = arg };
	int err = read_request(cmd, arg, &call.req, &call.size);

	if (!call.size)
		return err;
	/* A result that has nowhere to go is found out before anything happens. */
	if (write_result(&call))
		return -EFAULT;
	if (err == -E2BIG)
		cowsnap_refuse(&call.op, 0, COWSNAP_REASON_STRUCT_TAIL, err);
	err = cmd->run(&call.req, &call.op, err);
	if (!call.answered && write_result(&call))
		return -EFAULT;
	return err;
}

static long cowsnap_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	unsigned int nr = _IOC_NR(cmd);

	if (cmd != _IO(COWSNAP_IOC_MAGIC, nr) || nr >= ARRAY_SIZE(commands))
		return -ENOTTY;
	nr = array_index_nospec(nr, ARRAY_SIZE(commands));
	return serve(&commands[nr], (void __user *)arg);
}

static const struct file_operations cowsnap_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = cowsnap_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice cowsnap_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "cowsnap",
	.fops = &cowsnap_fops,
	.mode = 0600,
};

static int __init cowsnap_init(void)
{
	struct cowsnap_query query = {};
	int err = cowsnap_ksyms_init();

	if (err)
		return err;
	err = cowsnap_workers_init();
	if (err)
		return err;
	err = cowsnap_fault() ? -ENOMEM : misc_register(&cowsnap_device);
	if (err) {
		cowsnap_workers_exit();
		return err;
	}
	fill_query(&query);
	pr_info("%s on Linux %s: abi %u, ops %#x, remap_flags %#x, kinds %#x, huge_whole %u\n",
		THIS_MODULE->version ?: "", init_utsname()->release, query.abi,
		query.ops, query.remap_flags, query.kinds, query.huge_whole);
	cowsnap_large_init();
	return 0;
}

static void __exit cowsnap_exit(void)
{
	misc_deregister(&cowsnap_device);
	cowsnap_workers_exit();
}

module_init(cowsnap_init);
module_exit(cowsnap_exit);

MODULE_DESCRIPTION("Duplicate ranges of memory copy-on-write within one process");
MODULE_AUTHOR("The cowsnap maintainers");
MODULE_VERSION("0.1");
MODULE_LICENSE("GPL");
