/* A bounded queue between two threads, and buffers that several of them read: what pack.c and unpack.c are made of. */
#ifndef QUEUE_H
#define QUEUE_H

#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_SIZE (1u << 20)
#define QUEUE_LENGTH 8

typedef struct {
    atomic_int readers; /* the last one to be done with it frees it */
    size_t size;        /* 0 is the end */
    unsigned char bytes[BUFFER_SIZE];
} buffer;

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    buffer *held[QUEUE_LENGTH];
    unsigned first, count;
} queue;

#define QUEUE_INITIALIZER {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER}

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline void refuse(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static inline buffer *new_buffer(void) {
    buffer *made = malloc(sizeof *made);
    if (!made) die("malloc");
    made->size = 0;
    return made;
}

static inline void done_with(buffer *one) {
    if (atomic_fetch_sub(&one->readers, 1) == 1) free(one);
}

static inline void put(queue *to, buffer *one) {
    pthread_mutex_lock(&to->lock);
    while (to->count == QUEUE_LENGTH) pthread_cond_wait(&to->changed, &to->lock);
    to->held[(to->first + to->count++) % QUEUE_LENGTH] = one;
    pthread_cond_broadcast(&to->changed);
    pthread_mutex_unlock(&to->lock);
}

static inline buffer *take(queue *from) {
    pthread_mutex_lock(&from->lock);
    while (from->count == 0) pthread_cond_wait(&from->changed, &from->lock);
    buffer *one = from->held[from->first];
    from->first = (from->first + 1) % QUEUE_LENGTH;
    from->count--;
    pthread_cond_broadcast(&from->changed);
    pthread_mutex_unlock(&from->lock);
    return one;
}

typedef struct {
    queue input;
    char hex[2 * 32 + 1];
    pthread_t thread;
} hasher;

static inline void *hash_all(void *argument) {
    hasher *self = argument;
    EVP_MD_CTX *state = EVP_MD_CTX_new();
    unsigned char digest[32];
    EVP_DigestInit_ex(state, EVP_sha256(), NULL);
    for (;;) {
        buffer *one = take(&self->input);
        size_t size = one->size;
        EVP_DigestUpdate(state, one->bytes, size);
        done_with(one);
        if (!size) break;
    }
    EVP_DigestFinal_ex(state, digest, NULL);
    EVP_MD_CTX_free(state);
    for (int at = 0; at < 32; at++) sprintf(self->hex + 2 * at, "%02x", digest[at]);
    return NULL;
}

static inline void start(hasher *self) {
    if (pthread_create(&self->thread, NULL, hash_all, self)) die("pthread_create");
}

static inline const char *finish(hasher *self) {
    pthread_join(self->thread, NULL);
    return self->hex;
}

#endif
