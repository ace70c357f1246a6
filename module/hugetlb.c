// SPDX-License-Identifier: GPL-2.0
/*
 * Private hugetlb mappings.
 *
 * A duplicate is to the pool what fork's child is: it has no reservation of its
 * own. A write that needs a page takes one that is free and not reserved, and
 * is SIGBUS where there is none.
 *
 * The source may have a reservation: the vma that mmap() made of memory without
 * MAP_NORESERVE, and only that one, not fork's child. When such an owner writes
 * to a shared page and the pool is exhausted, the kernel takes the page from all
 * others that map it (unmap_ref_private()), so that the owner need not copy.
 * They are the vmas of the same file at the same offset; before 7.3 they are
 * emptied at the *owner's address*, which is where fork's child maps the page.
 * A duplicate maps it elsewhere in the owner's own mm: there it is the owner who
 * would lose the page, and its content. So on those kernels
 *
 * - no page is shared that an owner may map: the duplicate gets copies;
 * - no duplicate is put where that search of an owner finds it: it gets a file
 *   of its own, as mmap() of anonymous hugetlb memory makes one. A hugetlbfs
 *   file or a memfd cannot be replaced so and is refused then.
 *
 * An owner is made by mmap() only. Where none maps the file there, the source
 * being MAP_NORESERVE, fork's child or itself a duplicate, pages are shared as
 * fork would, and nobody will own them later.
 */
#include "hugetlb.h"

/* A file that nobody can open or has a descriptor of, made by mmap(). */
static bool is_anonymous_file(const struct file *file)
{
	return file_inode(file)->i_sb->s_flags & SB_KERNMOUNT &&
	       !strcmp(file->f_path.dentry->d_name.name, HUGETLB_ANON_FILE);
}

#ifdef COWSNAP_UNMAP_REF_BY_ADDRESS
/* Does anybody who has a reservation map that part of the file? */
static bool has_owner(struct vm_area_struct *vma)
{
	struct address_space *mapping = vma->vm_file->f_mapping;
	unsigned long last = vma->vm_pgoff + vma_pages(vma) - 1;
	struct vm_area_struct *other;
	bool found = false;

	i_mmap_lock_read(mapping);
	other = ksym(vma_interval_tree_iter_first)(&mapping->i_mmap,
						   vma->vm_pgoff, last);
	while (other && !found) {
		found = cowsnap_hugetlb_is_owner(other);
		other = ksym(vma_interval_tree_iter_next)(other, vma->vm_pgoff,
							  last);
	}
	i_mmap_unlock_read(mapping);
	return found;
}

/*
 * As long as it must be for the page offsets of @vma, which are those of its
 * source, and without a page in it.
 */
static struct file *new_file(struct vm_area_struct *vma)
{
	unsigned long end = vma->vm_pgoff + vma_pages(vma);

	if (cowsnap_fault())
		return ERR_PTR(-ENOMEM);
	return cowsnap_hugetlb_file(end << PAGE_SHIFT,
				    huge_page_shift(hstate_vma(vma)));
}

/**
 * cowsnap_hugetlb_refusal - why a hugetlb mapping cannot be duplicated
 * @vma: private
 *
 * Return: that, or COWSNAP_REASON_NONE.
 */
enum cowsnap_reason cowsnap_hugetlb_refusal(struct vm_area_struct *vma)
{
	if (is_anonymous_file(vma->vm_file) || !has_owner(vma))
		return COWSNAP_REASON_NONE;
	return COWSNAP_REASON_HUGETLB;
}

static struct file *choose_file(struct vm_area_struct *vma,
				struct vm_area_struct *src_vma)
{
	if (is_anonymous_file(src_vma->vm_file) && has_owner(src_vma))
		return new_file(vma);
	return get_file(src_vma->vm_file);
}

/* With a file of its own the duplicate keeps out of what owners do. */
static bool must_copy(struct cowsnap_walk *walk)
{
	return walk->dst_vma->vm_file != walk->src_vma->vm_file;
}
#else
enum cowsnap_reason cowsnap_hugetlb_refusal(struct vm_area_struct *vma)
{
	return COWSNAP_REASON_NONE;
}

static struct file *choose_file(struct vm_area_struct *vma,
				struct vm_area_struct *src_vma)
{
	return get_file(src_vma->vm_file);
}

static bool must_copy(struct cowsnap_walk *walk)
{
	return false;
}
#endif

/**
 * cowsnap_open_hugetlb - give a new vma its file, and no reservation
 * @vma: in no tree yet, a copy of @src_vma with its final addresses and offset
 * @src_vma: private
 *
 * Return: 0, or an error that has taken no reference.
 */
int cowsnap_open_hugetlb(struct vm_area_struct *vma,
			 struct vm_area_struct *src_vma)
{
	struct file *file = choose_file(vma, src_vma);

	if (IS_ERR(file))
		return PTR_ERR(file);
	vma->vm_file = file;
	vma->vm_private_data = NULL;
	return 0;
}

/* The entries of one page on either side. */
struct pair {
	struct hstate *h;
	unsigned long size;
	unsigned long src;
	unsigned long dst;
	pte_t *src_pte;		/* NULL: nothing is mapped there */
	pte_t *dst_pte;
	spinlock_t *src_ptl;
	spinlock_t *dst_ptl;
};

static void find_src(struct cowsnap_walk *walk, unsigned long addr,
		     struct pair *pair)
{
	pair->h = hstate_vma(walk->src_vma);
	pair->size = huge_page_size(pair->h);
	pair->src = addr;
	pair->dst = addr + walk->offset;
	pair->src_pte = ksym(huge_pte_offset)(walk->op->mm, addr, pair->size);
}

static pte_t src_entry(struct cowsnap_walk *walk, const struct pair *pair)
{
	return cowsnap_huge_ptep_get(walk->op->mm, pair->src, pair->src_pte);
}

/*
 * A vma that has lost pages to an owner (see above) is marked so, and its missing
 * pages are SIGBUS instead of zeroes: so they are in the duplicate. An owner in
 * another mm takes them without the mmap lock of this one: marks the vma and
 * empties the entry, with the lock. To be asked after it was found empty.
 */
static void take_lost_mark(struct cowsnap_walk *walk)
{
	if (cowsnap_hugetlb_has_lost(walk->src_vma))
		cowsnap_hugetlb_set_lost(walk->dst_vma);
}

/* All page tables of 1 GiB pages have one lock, those of 2 MiB one or two. */
static void lock_pair(struct cowsnap_walk *walk, struct pair *pair)
{
	struct mm_struct *mm = walk->op->mm;

	pair->src_ptl = huge_pte_lockptr(pair->h, mm, pair->src_pte);
	pair->dst_ptl = huge_pte_lockptr(pair->h, mm, pair->dst_pte);
	cowsnap_lock_both(pair->src_ptl, pair->dst_ptl);
}

static void unlock_pair(const struct pair *pair)
{
	cowsnap_unlock_both(pair->src_ptl, pair->dst_ptl);
}

static void set_dst(struct cowsnap_walk *walk, const struct pair *pair,
		    pte_t entry)
{
	cowsnap_set_huge_pte(walk->op->mm, pair->dst, pair->dst_pte, entry,
			     pair->size);
}

/*
 * Neither empty nor present. -EAGAIN: the page is on its way, see
 * share_nonpresent() of share.c.
 */
static int share_absent(struct cowsnap_walk *walk, const struct pair *pair,
			pte_t entry)
{
	softleaf_t leaf = softleaf_from_pte(entry);
	pte_marker marker;

	if (softleaf_is_migration(leaf))
		return -EAGAIN;
	if (softleaf_is_marker(leaf)) {
		marker = cowsnap_marker_to_keep(leaf);
		if (marker)
			set_dst(walk, pair, make_pte_marker(marker));
		return 0;
	}
	/* A page lost to a memory error: SIGBUS on either side. */
	set_dst(walk, pair, entry);
	return 0;
}

/*
 * Protect a page and share it, or leave it to the second pass. A page of the
 * file itself the duplicate faults in from there.
 */
static void share_present(struct cowsnap_walk *walk, const struct pair *pair,
			  pte_t entry)
{
	unsigned long nr = pages_per_huge_page(pair->h);
	struct folio *folio = page_folio(pte_page(entry));
	struct mm_struct *mm = walk->op->mm;

	if (!folio_test_anon(folio))
		return;
	if (huge_pte_write(entry)) {
		huge_ptep_set_wrprotect(mm, pair->src, pair->src_pte);
		entry = huge_pte_wrprotect(src_entry(walk, pair));
	}
	if (must_copy(walk) || cowsnap_refs_exhausted(folio) ||
	    cowsnap_dup_rmap_hugetlb(folio, walk->src_vma)) {
		walk->op->left++;
		return;
	}
	folio_get(folio);
	set_dst(walk, pair, cowsnap_huge_pte_untrap(entry, walk->src_vma,
						    walk->dst_vma));
	hugetlb_count_add(nr, mm);
	walk->op->shared += nr;
}

/*
 * The kernel's own wait wants locks that differ from version to version; moving
 * a huge page takes milliseconds anyway.
 */
static int wait_for_migration(void)
{
	schedule_timeout_killable(1);
	return -EAGAIN;
}

/* With the lock: who moves a page empties its entry for a moment, see pgwalk.c. */
static bool is_empty(struct cowsnap_walk *walk, const struct pair *pair)
{
	spinlock_t *ptl;
	bool empty;

	if (!pair->src_pte)
		return true;
	ptl = huge_pte_lock(pair->h, walk->op->mm, pair->src_pte);
	empty = huge_pte_none(src_entry(walk, pair));
	spin_unlock(ptl);
	return empty;
}

static int share_one(struct cowsnap_walk *walk, unsigned long addr)
{
	struct pair pair;
	pte_t entry;
	int err = 0;

	find_src(walk, addr, &pair);
	/* Nobody faults: what is empty stays so. */
	if (is_empty(walk, &pair))
		return 0;
	pair.dst_pte = ksym_or(NULL, huge_pte_alloc, walk->op->mm,
			       walk->dst_vma, pair.dst, pair.size);
	if (!pair.dst_pte)
		return -ENOMEM;
	lock_pair(walk, &pair);
	entry = src_entry(walk, &pair);
	if (pte_present(entry))
		share_present(walk, &pair, entry);
	else if (!huge_pte_none(entry))
		err = share_absent(walk, &pair, entry);
	unlock_pair(&pair);
	return err == -EAGAIN ? wait_for_migration() : err;
}

/**
 * cowsnap_share_hugetlb - first pass: share a page, or protect it
 * @walk: both vmas are write-locked
 * @addr: of the page in the source
 *
 * Return: 0, -EAGAIN to be called again, or -ENOMEM.
 */
int cowsnap_share_hugetlb(struct cowsnap_walk *walk, unsigned long addr)
{
	int err = share_one(walk, addr);

	take_lost_mark(walk);
	return err;
}

/* As unprotect_src() of share.c: the page is the source's alone. */
static void unprotect_src(struct cowsnap_walk *walk, const struct pair *pair,
			  pte_t entry)
{
	struct vm_area_struct *vma = walk->src_vma;

	if (huge_pte_write(entry) || !huge_pte_dirty(entry) ||
	    !(vma->vm_flags & VM_WRITE) || huge_pte_uffd(entry) ||
	    !PageAnonExclusive(pte_page(entry)))
		return;
	cowsnap_set_huge_pte(vma->vm_mm, pair->src, pair->src_pte,
			     cowsnap_pte_mkwrite(entry), pair->size);
}

/* Both locks held: @folio, which holds a copy, becomes the duplicate's page. */
static void install_copy(struct cowsnap_walk *walk, const struct pair *pair,
			 struct folio *folio)
{
	unsigned long nr = pages_per_huge_page(pair->h);
	struct vm_area_struct *vma = walk->dst_vma;
	pte_t entry = mk_pte(&folio->page, vma->vm_page_prot);

	cowsnap_add_new_hugetlb(folio, vma, pair->dst);
	entry = pte_mkyoung(pte_mkdirty(entry));
	if (vma->vm_flags & VM_WRITE)
		entry = cowsnap_pte_mkwrite(entry);
	else
		entry = huge_pte_wrprotect(entry);
	set_dst(walk, pair, arch_make_huge_pte(entry, huge_page_shift(pair->h),
					       vma->vm_flags));
	hugetlb_count_add(nr, vma->vm_mm);
	walk->op->copied += nr;
}

/* A page of the pool with the content of @from, which the caller has a hold on. */
static struct folio *make_copy(struct cowsnap_walk *walk,
			       const struct pair *pair, struct folio *from)
{
	struct folio *folio = ERR_PTR(-ENOSPC);
	int err;

	if (!cowsnap_fault())
		folio = cowsnap_alloc_hugetlb(walk->dst_vma, pair->dst);
	if (IS_ERR(folio)) {
		err = cowsnap_refuse(walk->op, pair->src,
				     COWSNAP_REASON_HUGETLB_POOL, -ENOMEM);
		return ERR_PTR(err);
	}
	if (cowsnap_fault_once() ||
	    cowsnap_copy_hugetlb_folio(folio, from, pair->dst, walk->dst_vma)) {
		folio_put(folio);
		err = cowsnap_refuse(walk->op, pair->src, COWSNAP_REASON_POISON,
				     -EOPNOTSUPP);
		return ERR_PTR(err);
	}
	return folio;
}

/*
 * What is there to do for this entry under the locks? 0: nothing, or it is done
 * with @copy, which was made when the entry was @copied. 1: make a copy first.
 */
static int copy_locked(struct cowsnap_walk *walk, const struct pair *pair,
		       struct folio **copy, pte_t *copied)
{
	pte_t entry = src_entry(walk, pair);
	pte_t dst = cowsnap_huge_ptep_get(walk->op->mm, pair->dst, pair->dst_pte);

	if (huge_pte_none(entry) || !huge_pte_none(dst))
		return 0;
	if (!pte_present(entry))
		return share_absent(walk, pair, entry);
	if (!folio_test_anon(page_folio(pte_page(entry))))
		return 0;
	if (!*copy || !pte_same(entry, *copied)) {
		folio_get(page_folio(pte_page(entry)));
		*copied = entry;
		return 1;
	}
	install_copy(walk, pair, *copy);
	*copy = NULL;
	unprotect_src(walk, pair, entry);
	return 0;
}

/*
 * The page cannot be copied under the locks, nor be allocated. It may move
 * meanwhile; nobody can write to it, see the head of share.c.
 */
static int copy_left(struct cowsnap_walk *walk, unsigned long addr)
{
	struct folio *copy = NULL, *from;
	struct pair pair;
	pte_t copied;
	int todo;

	find_src(walk, addr, &pair);
	if (!pair.src_pte)
		return 0;
	pair.dst_pte = ksym(huge_pte_offset)(walk->op->mm, pair.dst, pair.size);
	if (!pair.dst_pte)	/* the first pass had nothing to do here */
		return 0;
	for (;;) {
		lock_pair(walk, &pair);
		todo = copy_locked(walk, &pair, &copy, &copied);
		unlock_pair(&pair);
		if (copy)
			folio_put(copy);
		if (todo <= 0)
			break;
		from = page_folio(pte_page(copied));
		copy = make_copy(walk, &pair, from);
		folio_put(from);
		if (IS_ERR(copy))
			return PTR_ERR(copy);
		if (cowsnap_killed()) {
			folio_put(copy);
			return -EINTR;
		}
	}
	return todo == -EAGAIN ? wait_for_migration() : todo;
}

/**
 * cowsnap_copy_hugetlb - second pass: copy a page that the first one has left
 * @walk: both vmas are write-locked
 * @addr: of the page in the source
 *
 * Return: 0, -EAGAIN to be called again, or an error.
 */
int cowsnap_copy_hugetlb(struct cowsnap_walk *walk, unsigned long addr)
{
	int err = copy_left(walk, addr);

	take_lost_mark(walk);
	return err;
}

/* What is mapped at an address. */
struct look {
	pte_t entry;	/* empty also where there is no page table */
	bool anon;
	bool alone;	/* the pool's page has no user but this mapping */
};

static struct look look_at(struct mm_struct *mm, struct hstate *h,
			   unsigned long addr)
{
	pte_t *ptep = ksym(huge_pte_offset)(mm, addr, huge_page_size(h));
	struct look look = { .entry = __pte(0) };
	struct folio *folio;
	spinlock_t *ptl;

	if (!ptep)
		return look;
	ptl = huge_pte_lock(h, mm, ptep);
	look.entry = cowsnap_huge_ptep_get(mm, addr, ptep);
	if (pte_present(look.entry)) {
		folio = page_folio(pte_page(look.entry));
		look.anon = folio_test_anon(folio);
		/* Each mapping has a reference. */
		look.alone = look.anon && (PageAnonExclusive(&folio->page) ||
					   folio_ref_count(folio) == 1);
	}
	spin_unlock(ptl);
	return look;
}

static bool is_moving(pte_t entry)
{
	return !huge_pte_none(entry) && !pte_present(entry) &&
	       softleaf_is_migration(softleaf_from_pte(entry));
}

/* As writable as the mapping lets it be, and nobody else's? */
static bool is_unshared(struct vm_area_struct *vma, const struct look *look)
{
	if (!pte_present(look->entry) || !look->anon ||
	    huge_pte_uffd(look->entry) || huge_pte_write(look->entry))
		return true;
	return look->alone && !(vma->vm_flags & VM_WRITE);
}

/*
 * One page. A fault may come to nothing, when somebody has the page locked or
 * moves it; the access would then fault again.
 */
static int unshare_page(struct cowsnap_op *op, struct vm_area_struct *vma,
			unsigned long addr)
{
	unsigned int flags = vma->vm_flags & VM_WRITE ? FAULT_FLAG_WRITE :
							FAULT_FLAG_UNSHARE;
	struct hstate *h = hstate_vma(vma);
	bool faulted = false, alone = false;
	struct look look;
	int err;

	for (;;) {
		look = look_at(op->mm, h, addr);
		if (is_moving(look.entry)) {
			wait_for_migration();
		} else if (is_unshared(vma, &look)) {
			break;
		} else {
			if (!look.alone && op->flags & COWSNAP_UNSHARE_REUSE)
				return 0;
			alone = look.alone;
			err = cowsnap_touch(op, vma, addr, flags);
			if (err)
				return err;
			faulted = true;
		}
		if (cowsnap_killed())
			return cowsnap_refuse(op, addr, COWSNAP_REASON_SIGNAL,
					      -EINTR);
	}
	if (faulted)
		*(alone ? &op->reused : &op->copied) += pages_per_huge_page(h);
	return 0;
}

/**
 * cowsnap_unshare_hugetlb - UNSHARE for a hugetlb mapping
 * @op: the request
 * @vma: the mapping; mmap lock held for reading
 * @addr: where to begin, and where it ended
 * @end: of the range in this mapping
 *
 * By the kernel's own write fault: there is one for each huge page, so that
 * batches would save nothing, and the pool, reservations and their owners are
 * in good hands.
 *
 * Return: 0, -EINTR or -ENOMEM.
 */
int cowsnap_unshare_hugetlb(struct cowsnap_op *op, struct vm_area_struct *vma,
			    unsigned long *addr, unsigned long end)
{
	int err = 0;

	for (; *addr < end && !err; *addr += huge_page_size(hstate_vma(vma))) {
		if (cowsnap_killed())
			return cowsnap_refuse(op, *addr, COWSNAP_REASON_SIGNAL,
					      -EINTR);
		err = unshare_page(op, vma, *addr);
		cond_resched();
	}
	return err;
}

/**
 * cowsnap_hugetlb_same - do both ranges have the same page, or none?
 * @a: hugetlb mapping
 * @addr_a: of the page in it
 * @b: another one with pages of the same size
 * @addr_b: of the page in that one
 * @same_file: what their files have there is the same
 *
 * The mmap lock is held for reading. Both entries are read under both locks, see
 * diff.c.
 */
bool cowsnap_hugetlb_same(struct vm_area_struct *a, unsigned long addr_a,
			  struct vm_area_struct *b, unsigned long addr_b,
			  bool same_file)
{
	struct cowsnap_op op = { .mm = a->vm_mm };
	struct cowsnap_walk walk = {
		.op = &op, .src_vma = a, .offset = addr_b - addr_a,
	};
	pte_t entry_a = __pte(0), entry_b = __pte(0);
	struct pair pair;
	bool none;

	find_src(&walk, addr_a, &pair);
	pair.dst_pte = ksym(huge_pte_offset)(a->vm_mm, addr_b, pair.size);
	if (pair.src_pte && pair.dst_pte) {
		lock_pair(&walk, &pair);
		entry_a = src_entry(&walk, &pair);
		entry_b = cowsnap_huge_ptep_get(a->vm_mm, addr_b, pair.dst_pte);
		unlock_pair(&pair);
	} else if (pair.src_pte) {
		entry_a = look_at(a->vm_mm, pair.h, addr_a).entry;
	} else if (pair.dst_pte) {
		entry_b = look_at(a->vm_mm, pair.h, addr_b).entry;
	}
	/* It had no entry when the other one was looked at. Has it now? */
	if (!pair.src_pte != !pair.dst_pte &&
	    ksym(huge_pte_offset)(a->vm_mm, pair.src_pte ? addr_b : addr_a,
				  pair.size))
		return false;
	none = huge_pte_none(entry_a);
	if (none != huge_pte_none(entry_b))
		return false;
	/* SIGBUS on one side, zeroes on the other? */
	if (none && cowsnap_hugetlb_has_lost(a) != cowsnap_hugetlb_has_lost(b))
		return false;
	/* Nobody else can have put a page into such a file. */
	if (none)
		return same_file || (is_anonymous_file(a->vm_file) &&
				     is_anonymous_file(b->vm_file));
	return pte_present(entry_a) && pte_present(entry_b) &&
	       pte_pfn(entry_a) == pte_pfn(entry_b);
}
