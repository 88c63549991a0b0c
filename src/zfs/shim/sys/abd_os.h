/* Layout of libzpool's userspace buffers; OpenZFS 2.3.2 has this header, Debian's libzfslinux-dev does not package it. */
#ifndef ZPAIR_SHIM_ABD_OS_H
#define ZPAIR_SHIM_ABD_OS_H
#include <sys/uio.h>
struct abd_scatter {
	unsigned int abd_offset;
	unsigned int abd_iovcnt;
	struct iovec abd_iov[1];
};
struct abd_linear {
	void *abd_buf;
};
#endif
