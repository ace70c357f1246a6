/* SPDX-License-Identifier: GPL-2.0 */
/* Compiled as C and as C++, and linked: both headers alone must suffice. */
#include <cowsnap.h>

/* The layout is ABI: no padding, the same on 32 and 64 bit. */
typedef char query_is_56_bytes[sizeof(struct cowsnap_query) == 56 ? 1 : -1];
typedef char remap_is_64_bytes[sizeof(struct cowsnap_remap) == 64 ? 1 : -1];

int main(void)
{
	return cowsnap_reason(COWSNAP_REASON_SHARED)[0] == 0;
}
